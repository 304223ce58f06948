"""The pictures that every training has, in the form of the paper's Figures 1, 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pysemi.experiments.experiment import Run
from pysemi.experiments.figure import arm_style, new_grid, to_png
from pysemi.experiments.metric import METRICS
from pysemi.experiments.run_directory import EpochRecord
from pysemi.experiments.section import Picture
from pysemi.stats import Times

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["evaluations_figure", "rejections_figure", "training_figure", "training_pictures"]

MOST_BINS = 60
MOST_ABREAST = 2
"""Histograms side by side; with more of them there is no room for what they are called."""

Histories = Mapping[str, Mapping[str, Sequence[Sequence[EpochRecord]]]]
"""By variant and arm, the epochs of each seed."""

Moments = Mapping[str, Mapping[str, Sequence[Times]]]
"""By variant and arm, times of each seed."""


def training_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Training curves, evaluations and rejections, for each backend."""
    pictures = []
    backends = dict.fromkeys(run.row["backend"] for run in runs)
    for backend in backends:
        own = [run for run in runs if run.row["backend"] == backend]
        name, on = (f"-{backend}", f", on {backend}") if len(backends) > 1 else ("", "")
        metric = own[0].row["metric_name"]
        moments = [_moments(run) for run in own]  # once, as there may be much to read
        evaluations = _collect(own, [found[0] for found in moments])
        rejections = _collect(own, [found[1] for found in moments])
        pictures += [
            Picture(
                f"training{name}",
                f"{_sentence(METRICS[metric].axis)} and evaluations during training{on}",
                "In the form of the paper's Figure 1. Lines: mean over the seeds; bands: one "
                "standard deviation.",
                training_figure(_collect(own, [run.directory.history() for run in own]), metric),
            ),
            Picture(
                f"evaluations{name}",
                f"Where the adjoint equations are evaluated{on}",
                "In the form of the paper's Figure 4. Evaluations of the vector field by the "
                "backward solves of all training, by the time t at which they were made; in "
                "brackets, how many a run made.",
                evaluations_figure(evaluations),
            ),
            Picture(
                f"rejections{name}",
                f"Where backward steps are rejected{on}",
                "In the form of the paper's Figure 5. Rejected steps of the backward solves of "
                "all training, by the time t they started from; in brackets, how many a run had.",
                rejections_figure(rejections, evaluations),
            ),
        ]
    return pictures


def training_figure(histories: Histories, metric: str) -> bytes:
    """Metric and backward NFE over training (Figure 1), as PNG.

    Lines are means over the seeds, bands one standard deviation; a row of panels
    for each variant.
    """
    figure, axes = new_grid(len(histories), 2, height=2.7 if len(histories) > 1 else 3.2)
    for (left, right), (variant, by_arm) in zip(axes, histories.items(), strict=True):
        for arm, seeds in by_arm.items():
            style = arm_style(arm, tuple(by_arm))
            epochs = [record.epoch for record in seeds[0]]
            metrics = np.array([[record.metric for record in run] for run in seeds])
            nfe = np.cumsum([[record.backward_nfe for record in run] for run in seeds], axis=1)
            _band(left, epochs, metrics, arm, style)
            _band(right, epochs, nfe, arm, style)
        for one in (left, right):
            one.xaxis.get_major_locator().set_params(integer=True)
        left.set(ylabel=METRICS[metric].axis, title=variant)
        right.set(ylabel="backward NFE so far", ylim=(0, None), title=variant)
    axes[-1, 0].set(xlabel="epoch")
    axes[-1, 1].set(xlabel="epoch")
    axes[0, 1].legend(frameon=False)
    return to_png(figure)


def evaluations_figure(evaluations: Moments) -> bytes:
    """Where the backward solves evaluate the vector field (Figure 4), as PNG."""
    return _histograms(evaluations, evaluations, "backward evaluations per run")


def rejections_figure(rejections: Moments, evaluations: Moments) -> bytes:
    """Where steps of the backward solves are rejected (Figure 5), as PNG."""
    return _histograms(rejections, evaluations, "rejected backward steps per run")


def _collect(runs: Sequence[Run], values: Sequence[Any]) -> dict[str, dict[str, list[Any]]]:
    """One value of each run, by variant and arm."""
    collected: dict[str, dict[str, list[Any]]] = {}
    for run, value in zip(runs, values, strict=True):
        by_arm = collected.setdefault(run.row["variant"], {})
        by_arm.setdefault(run.row["arm"], []).append(value)
    return collected


def _moments(run: Run) -> tuple[Times, Times]:
    """When the run's backward solves evaluated, and from when steps were rejected."""
    solves = [solve for solve in run.directory.solves() if solve.direction == "backward"]
    return (
        np.concatenate([np.empty(0), *(solve.evaluation_times for solve in solves)]),
        np.concatenate([np.empty(0), *(solve.rejected_times for solve in solves)]),
    )


def _histograms(moments: Moments, all_evaluations: Moments, label: str) -> bytes:
    columns = min(len(moments), MOST_ABREAST)
    figure, axes = new_grid(-(-len(moments) // columns), columns)
    for panel in axes.flat[len(moments) :]:
        panel.set_axis_off()
    for panel, (variant, by_arm) in zip(axes.flat, moments.items(), strict=False):
        span = _span(all_evaluations[variant])
        bins = _bins(span)
        for arm, seeds in by_arm.items():
            style = arm_style(arm, tuple(by_arm))
            times = np.concatenate(seeds)
            counts, edges = np.histogram(times, bins=bins, range=span)
            panel.stairs(counts / len(seeds), edges, fill=True, alpha=0.3, color=style["color"])
            panel.stairs(
                counts / len(seeds),
                edges,
                color=style["color"],
                linestyle=style["linestyle"],
                label=f"{arm} ({len(times) / len(seeds):,.0f})",
            )
        panel.set(xlabel="t", xlim=span, title=variant)
        panel.set_ylim(0, 1.3 * max(panel.get_ylim()[1], 1))  # room for the legend
        panel.legend(frameon=False, loc="upper left", fontsize="small")
    for first in axes[:, 0]:
        first.set(ylabel=label)
    return to_png(figure)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _span(by_arm: Mapping[str, Sequence[Times]]) -> tuple[float, float]:
    times = np.concatenate([np.empty(0), *(one for seeds in by_arm.values() for one in seeds)])
    return (float(times.min()), float(times.max())) if len(times) else (0.0, 1.0)


def _bins(span: tuple[float, float]) -> int:
    # The knots of our controls are at whole times: bins of one unit each do not
    # show a comb, where there are neither too few nor too many of them.
    units = round(span[1] - span[0])
    return units if 10 <= units <= MOST_BINS else MOST_BINS


def _band(
    axes: Axes, epochs: Sequence[int], values: Any, arm: str, style: Mapping[str, Any]
) -> None:
    mean = values.mean(axis=0)
    axes.plot(epochs, mean, label=arm, markersize=3, **style)
    if len(values) > 1:
        std = values.std(axis=0, ddof=1)
        axes.fill_between(epochs, mean - std, mean + std, color=style["color"], alpha=0.2)
