"""One look for every picture: sizes, colours, and how a picture becomes a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "arm_style", "label_log_axis", "new_figure", "new_grid", "to_png"]

COLOURS = ("#c8553d", "#28666e", "#b88b00", "#7b5ea7", "#3d3d3d")
"""Told apart in print and by colour-blind readers: they differ in lightness too."""

DOTS_PER_INCH = 130
WIDTH = 8.6
"""Of a picture, in inches."""

_ARMS = {"default": 0, "seminorm": 1, "rms": 2, "no-log-density": 2, "published": 2}
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v")


def arm_style(arm: str, arms: Sequence[str]) -> dict[str, Any]:
    """Colour, line and marker of one of some ``arms``: the same in every picture."""
    index = _ARMS.get(arm, arms.index(arm) if arm in arms else 0) % len(COLOURS)
    return {"color": COLOURS[index], "linestyle": _LINES[index], "marker": _MARKERS[index]}


def new_figure(panels: int, *, height: float = 3.2, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure with some panels side by side; other arguments go to ``Figure.subplots``."""
    figure, axes = new_grid(1, panels, height=height, **kwargs)
    return figure, list(axes[0])


def new_grid(
    rows: int, columns: int, *, height: float = 3.2, **kwargs: Any
) -> tuple[Figure, np.ndarray[Any, Any]]:
    """A figure with panels in rows (each of that height, in inches) and columns.

    Returns
    -------
    Figure
    ndarray
        Of axes, shape ``(rows, columns)``.
    """
    # Not through pyplot: it keeps global state, and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return figure, axes


def label_log_axis(axis: Axis) -> None:
    """Give a logarithmic axis plain labels at 1, 2 and 5, also where it spans no decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure) -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
