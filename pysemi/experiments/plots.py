"""The pictures of a report, in the form of the paper's Figures 1, 4 and 5."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pysemi.experiments.run_directory import EpochRecord
from pysemi.stats import SolveStats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["evaluations_figure", "rejections_figure", "training_figure"]

COLOURS = {"default": "#c8553d", "seminorm": "#28666e", "rms": "#7c6a0a"}
BINS = 60
DOTS_PER_INCH = 130

Runs = Mapping[str, Sequence[Any]]
"""By norm, one entry per seed."""


def training_figure(histories: Mapping[str, Sequence[Sequence[EpochRecord]]], metric: str) -> bytes:
    """Metric and backward NFE over training (Figure 1), as PNG.

    Lines are means over the seeds, bands one standard deviation.
    """
    figure, (left, right) = _figure(2)
    for norm, seeds in histories.items():
        epochs = [record.epoch for record in seeds[0]]
        metrics = np.array([[record.metric for record in run] for run in seeds])
        nfe = np.cumsum([[record.backward_nfe for record in run] for run in seeds], axis=1)
        _band(left, epochs, metrics, norm)
        _band(right, epochs, nfe, norm)
    left.set(xlabel="epoch", ylabel=f"test {metric}")
    right.set(xlabel="epoch", ylabel="backward NFE, accumulated", ylim=(0, None))
    right.legend(frameon=False)
    return _png(figure)


def evaluations_figure(solves: Mapping[str, Sequence[Sequence[SolveStats]]]) -> bytes:
    """Where the backward solves evaluate the vector field (Figure 4), as PNG."""
    return _histogram(
        {
            norm: [[solve.evaluation_times for solve in run] for run in seeds]
            for norm, seeds in solves.items()
        },
        "backward evaluations per run",
    )


def rejections_figure(solves: Mapping[str, Sequence[Sequence[SolveStats]]]) -> bytes:
    """Where steps of the backward solves are rejected (Figure 5), as PNG."""
    return _histogram(
        {
            norm: [[solve.rejected_times for solve in run] for run in seeds]
            for norm, seeds in solves.items()
        },
        "rejected backward steps per run",
    )


def _histogram(times: Mapping[str, Sequence[Sequence[Any]]], label: str) -> bytes:
    figure, (axes,) = _figure(1)
    pooled = {
        norm: np.concatenate([np.empty(0), *(times for run in seeds for times in run)])
        for norm, seeds in times.items()
    }
    everything = np.concatenate(list(pooled.values()))
    span = (everything.min(), everything.max()) if len(everything) else (0.0, 1.0)
    for norm, values in pooled.items():
        axes.hist(
            values,
            bins=BINS,
            range=span,
            weights=np.full(len(values), 1 / len(times[norm])),
            histtype="stepfilled",
            alpha=0.55,
            color=COLOURS.get(norm),
            label=f"{norm} ({len(values) / len(times[norm]):,.0f})",
        )
    axes.set(xlabel="t", ylabel=label)
    axes.legend(frameon=False)
    return _png(figure)


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    # Not through pyplot: it keeps global state, and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * panels, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return figure, axes


def _band(axes: Axes, epochs: Sequence[int], values: Any, norm: str) -> None:
    mean = values.mean(axis=0)
    axes.plot(epochs, mean, color=COLOURS.get(norm), label=norm, marker="o", markersize=3)
    if len(values) > 1:
        std = values.std(axis=0, ddof=1)
        axes.fill_between(epochs, mean - std, mean + std, color=COLOURS.get(norm), alpha=0.2)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
