"""Pictures of what flows have learnt: samples, densities, and how points move."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pysemi.experiments.experiment import Run
from pysemi.experiments.figure import COLOURS, new_figure, to_png
from pysemi.experiments.section import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["image_figure", "image_pictures", "point_figure", "point_pictures"]

Arrays = Mapping[str, NDArray[Any]]

COLUMNS = 10
"""Of a grid of images."""
DENSITIES = "Blues"
"""A colour map that only gets darker: it can be read in print, and by everyone."""


def image_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Images of the test set and samples, of one run of each variant."""
    return [
        Picture(
            f"samples{_suffix(run)}",
            f"Images and samples{_of(run)}",
            f"Left: images of the test set. Right: samples of the model ({_whose(run)}; test set "
            f"{run.row['metric']:.3f} bits/dim).",
            image_figure(run.directory.exhibits()),
        )
        for run in _shown(runs)
    ]


def point_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Data, density, samples and the way from the base, of one run of each variant."""
    return [
        Picture(
            f"density{_suffix(run)}",
            f"Data, density, samples and flow{_of(run)}",
            "The darker, the larger the density that was learnt, from white for zero. The last "
            "panel has points on their way from the normal base at t = 0 (rings) to the "
            f"samples at t = 1 (dots). By the model of {_whose(run)}.",
            point_figure(run.directory.exhibits()),
        )
        for run in _shown(runs)
    ]


def image_figure(arrays: Arrays) -> bytes:
    """A grid of images beside a grid of samples, as PNG."""
    images, samples, levels = arrays["images"], arrays["samples"], int(arrays["levels"])
    rows = -(-len(samples) // COLUMNS)
    figure, panels = new_figure(2, height=4.3 * rows / COLUMNS + 0.35)
    for axes, pixels, title in zip(panels, (images, samples), ("data", "samples"), strict=True):
        axes.imshow(
            _tiled(pixels, levels), cmap="gray_r", vmin=0, vmax=levels - 1, interpolation="nearest"
        )
        axes.set_title(title)
        axes.set_axis_off()
    return to_png(figure)


def point_figure(arrays: Arrays) -> bytes:
    """Data, density, samples and the way between base and samples, as PNG."""
    figure, (data, density, samples, flow) = new_figure(
        4, height=2.45, sharex=True, sharey=True, subplot_kw={"aspect": "equal"}
    )
    view = float(arrays["view"])
    _dots(data, arrays["points"])
    values = np.exp(arrays["log_density"])
    # Not up to the largest value: a single sharp peak would leave the rest white.
    density.imshow(
        values,
        cmap=DENSITIES,
        vmin=0,
        vmax=np.quantile(values, 0.99),
        origin="lower",
        extent=(-view, view, -view, view),
        interpolation="bilinear",
    )
    _dots(samples, arrays["samples"])
    _ways(flow, arrays["path"])
    titles = ("data", "density", "samples", "from base to samples")
    for axes, title in zip((data, density, samples, flow), titles, strict=True):
        axes.set(xlim=(-view, view), ylim=(-view, view), xticks=[], yticks=[])
        axes.set_title(title, fontsize=10)
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
    return to_png(figure)


def _dots(axes: Axes, points: NDArray[Any]) -> None:
    axes.plot(*points.T, ".", color=COLOURS[1], markersize=3.2, markeredgewidth=0, alpha=0.7)


def _ways(axes: Axes, path: NDArray[Any]) -> None:
    axes.plot(path[..., 0], path[..., 1], color="0.55", linewidth=0.5, alpha=0.6)
    axes.plot(
        *path[0].T,
        "o",
        color="white",
        markersize=2.8,
        markeredgewidth=0.7,
        markeredgecolor=COLOURS[0],
    )
    axes.plot(*path[-1].T, "o", color=COLOURS[1], markersize=2.8, markeredgewidth=0)


def _tiled(pixels: NDArray[Any], levels: int) -> NDArray[Any]:
    """Images in rows, with a light line between; of three channels as a colour picture."""
    count, channels, height, width = pixels.shape
    rows = -(-count // COLUMNS)
    paper = 0 if channels == 1 else levels - 1  # one channel is shown as black ink
    tiles = np.full((rows * COLUMNS, channels, height + 2, width + 2), paper, dtype=pixels.dtype)
    tiles[:count, :, 1:-1, 1:-1] = pixels
    grid = tiles.reshape(rows, COLUMNS, channels, height + 2, width + 2)
    picture: NDArray[Any] = grid.transpose(0, 3, 1, 4, 2).reshape(
        rows * (height + 2), COLUMNS * (width + 2), channels
    )
    # Colours have to lie in [0, 1]; a single channel is a value for the colour map.
    return picture.squeeze(2) if channels == 1 else picture / (levels - 1)


def _shown(runs: Sequence[Run]) -> Iterable[Run]:
    """Of each variant one run: the seminorm's first seed, if there is one."""
    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.row["arm"] != "seminorm", run.row["seed"])):
        chosen.setdefault(run.row["variant"], run)
    order = dict.fromkeys(run.row["variant"] for run in runs)
    return [chosen[variant] for variant in order]


def _suffix(run: Run) -> str:
    variant = re.sub(r"\W+", "-", run.row["variant"])
    return f"-{variant}" if variant else ""


def _of(run: Run) -> str:
    return f": {run.row['variant']}" if run.row["variant"] else ""


def _whose(run: Run) -> str:
    return f"arm {run.row['arm']}, seed {run.row['seed']}"
