"""Rows of runs, and the table in the paper's form that is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from pysemi.experiments.paper import Measured, PaperComparison

__all__ = ["NormSummary", "Spread", "Table", "paper_table", "saving", "step_table", "summarise"]


@dataclass(frozen=True)
class Spread:
    """Mean over the seeds, and their standard deviation where there are two or more."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value per seed."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """``mean ± std`` of the values divided by ``scale``."""
        shown = f"{self.mean / scale:.{digits}f}"
        return shown if self.std is None else f"{shown} ± {self.std / scale:.{digits}f}"


@dataclass(frozen=True)
class NormSummary:
    """One norm's runs, over the seeds."""

    norm: str
    seeds: int
    metric: Spread
    forward_nfe: Spread
    backward_nfe: Spread
    accepted: Spread
    rejected: Spread
    seconds: Spread

    @property
    def proportion_rejected(self) -> float:
        """Rejected among all attempted backward steps (paper, Table 4)."""
        attempts = self.accepted.mean + self.rejected.mean
        return self.rejected.mean / attempts if attempts else 0.0


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[NormSummary]:
    """One summary per norm, in the order in which the norms first appear."""
    by_norm: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_norm.setdefault(row["norm"], []).append(row)
    return [
        NormSummary(
            norm,
            len(group),
            **{
                name: Spread.of([row[name] for row in group])
                for name in (
                    "metric",
                    "forward_nfe",
                    "backward_nfe",
                    "accepted",
                    "rejected",
                    "seconds",
                )
            },
        )
        for norm, group in by_norm.items()
    ]


def saving(summaries: Sequence[NormSummary], norm: str) -> float | None:
    """The share of the default norm's backward NFE that ``norm`` does without."""
    found = {summary.norm: summary.backward_nfe.mean for summary in summaries}
    if norm == "default" or norm not in found or not found.get("default"):
        return None
    return 1 - found[norm] / found["default"]


@dataclass(frozen=True)
class Table:
    """A table to be shown on a terminal or a page.

    Attributes
    ----------
    title : str
    columns : tuple of str
        May have two lines.
    rows : tuple of tuple of str
        As many entries as columns.
    notes : tuple of str
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def paper_table(rows: Sequence[Mapping[str, Any]], paper: PaperComparison | None) -> Table:
    """The table in the form of the paper's Table 1, the paper's own row below ours."""
    summaries = summarise(rows)
    norms = [summary.norm for summary in summaries]
    first = rows[0]
    rtol, atol = first["rtol"], first["atol"]
    metric_heading, metric_scale = _metric_heading(first["metric_name"])
    nfe_scale, nfe_unit = _unit(max(summary.backward_nfe.mean for summary in summaries))
    columns = [""]
    ours = [f"pysemi, {first['backend']}"]
    for summary in summaries:
        columns += [f"{summary.norm}\n{metric_heading}", f"{summary.norm}\nBwd. NFE"]
        ours += [
            summary.metric.text(metric_scale),
            f"{summary.backward_nfe.text(nfe_scale, 2)}{nfe_unit}",
        ]
    lines = [tuple(ours)]
    notes = [
        f"{norm}: {share:.0%} fewer backward evaluations than the default norm"
        if share >= 0
        else f"{norm}: {-share:.0%} more backward evaluations than the default norm"
        for norm in norms
        if (share := saving(summaries, norm)) is not None
    ]
    if paper is not None and (rtol, atol) in paper.rows:
        row = paper.rows[rtol, atol]
        theirs = [f"paper, {paper.table}"]
        notes.append(f"The paper's row was measured on {paper.about}.")
        for norm in norms:
            theirs += [
                _measured(row.metric.get(norm), metric_scale, 1),
                _measured(row.backward_nfe.get(norm), 1e6, 2, "M"),
            ]
        lines.append(tuple(theirs))
    title = f"RTOL {rtol:g}, ATOL {atol:g}: {_repeats(summaries)}"
    return Table(title, tuple(columns), tuple(lines), tuple(notes))


def step_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The breakdown of the paper's Table 4: accepted and rejected backward steps."""
    return Table(
        "Backward steps and time over all of training",
        ("norm", "accepted", "rejected", "proportion\nrejected", "Fwd. NFE", "seconds"),
        tuple(
            (
                summary.norm,
                summary.accepted.text(digits=0),
                summary.rejected.text(digits=0),
                f"{summary.proportion_rejected:.1%}",
                summary.forward_nfe.text(digits=0),
                summary.seconds.text(digits=1),
            )
            for summary in summarise(rows)
        ),
    )


def _metric_heading(name: str) -> tuple[str, float]:
    return ("Accuracy (%)", 0.01) if name == "accuracy" else (name, 1.0)


def _unit(largest: float) -> tuple[float, str]:
    exponent, suffix = max(
        ((e, s) for e, s in ((6, "M"), (3, "k"), (0, "")) if largest >= 10**e or e == 0),
        key=lambda unit: unit[0],
    )
    return 10.0**exponent, suffix


def _repeats(summaries: Sequence[NormSummary]) -> str:
    seeds = max(summary.seeds for summary in summaries)
    return "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"


def _measured(value: Measured | None, scale: float, digits: int, unit: str = "") -> str:
    if value is None:
        return "–"
    return f"{value.mean / scale:.{digits}f} ± {value.std / scale:.{digits}f}{unit}"
