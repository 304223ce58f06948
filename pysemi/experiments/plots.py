"""The pictures of a report, in the form of the paper's Figures 1, 4 and 5."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pysemi.experiments.run_directory import EpochRecord
from pysemi.stats import SolveStats, Times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["evaluations_figure", "rejections_figure", "training_figure"]

COLOURS = {"default": "#c8553d", "seminorm": "#28666e", "rms": "#7c6a0a"}
MOST_BINS = 60
DOTS_PER_INCH = 130


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
    return _histogram(solves, "evaluation_times", "backward evaluations per run")


def rejections_figure(solves: Mapping[str, Sequence[Sequence[SolveStats]]]) -> bytes:
    """Where steps of the backward solves are rejected (Figure 5), as PNG."""
    return _histogram(solves, "rejected_times", "rejected backward steps per run")


def _histogram(
    solves: Mapping[str, Sequence[Sequence[SolveStats]]], times: str, label: str
) -> bytes:
    figure, (axes,) = _figure(1)
    span = _span(_pooled([run for seeds in solves.values() for run in seeds], "evaluation_times"))
    for norm, seeds in solves.items():
        values = _pooled(seeds, times)
        axes.hist(
            values,
            bins=_bins(span),
            range=span,
            weights=np.full(len(values), 1 / len(seeds)),
            histtype="stepfilled",
            alpha=0.55,
            color=COLOURS.get(norm),
            label=f"{norm} ({len(values) / len(seeds):,.0f})",
        )
    axes.set(xlabel="t", ylabel=label, xlim=span)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(solves))
    return _png(figure)


def _pooled(runs: Sequence[Sequence[SolveStats]], times: str) -> Times:
    return np.concatenate([np.empty(0), *(getattr(solve, times) for run in runs for solve in run)])


def _span(times: Times) -> tuple[float, float]:
    return (float(times.min()), float(times.max())) if len(times) else (0.0, 1.0)


def _bins(span: tuple[float, float]) -> int:
    # The knots of our controls are at whole times: bins of one unit each do not
    # show a comb, where there are neither too few nor too many of them.
    units = round(span[1] - span[0])
    return units if 10 <= units <= MOST_BINS else MOST_BINS


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    # Not through pyplot: it keeps global state, and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
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
