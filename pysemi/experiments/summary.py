"""Rows of runs, and the tables in the paper's form that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from pysemi.experiments.metric import METRICS, Metric
from pysemi.experiments.paper import Measured, PaperComparison, PaperRow
from pysemi.experiments.section import Table

__all__ = [
    "ArmSummary",
    "Spread",
    "group_rows",
    "paper_table",
    "proportion_rejected_of",
    "saving",
    "step_table",
    "summarise",
]

Row = Mapping[str, Any]


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
        shown = f"{self.mean / scale:,.{digits}f}"
        return shown if self.std is None else f"{shown} ± {self.std / scale:,.{digits}f}"


_SPREADS = (
    "metric",
    "forward_nfe",
    "backward_nfe",
    "accepted",
    "rejected",
    "test_accepted",
    "test_rejected",
    "seconds",
)


@dataclass(frozen=True)
class ArmSummary:
    """One arm's runs of one variant on one backend, over the seeds."""

    arm: str
    seeds: int
    metric: Spread
    forward_nfe: Spread
    backward_nfe: Spread
    accepted: Spread
    rejected: Spread
    test_accepted: Spread
    test_rejected: Spread
    seconds: Spread

    @property
    def proportion_rejected(self) -> float:
        """Rejected among all attempted backward steps of training."""
        return proportion_rejected_of(self.rejected.mean, self.accepted.mean)

    @property
    def test_proportion_rejected(self) -> float:
        """The same over one pass over the test set (paper, Table 4)."""
        return proportion_rejected_of(self.test_rejected.mean, self.test_accepted.mean)


def summarise(rows: Iterable[Row]) -> list[ArmSummary]:
    """One summary per arm, in the order in which the arms first appear."""
    return [
        ArmSummary(
            arm, len(group), **{name: Spread.of([row[name] for row in group]) for name in _SPREADS}
        )
        for (arm,), group in group_rows(rows, "arm").items()
    ]


def group_rows(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by the values of some keys, in the order of first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def saving(summaries: Sequence[ArmSummary], arm: str) -> float | None:
    """The share of the default norm's backward NFE that ``arm`` does without."""
    found = {summary.arm: summary.backward_nfe.mean for summary in summaries}
    return _saving(found, arm)


def paper_table(rows: Sequence[Row], paper: PaperComparison | None) -> Table:
    """The form of the paper's Tables 1 to 3: each arm's metric and backward NFE.

    Below the rows of each variant stands the paper's, where it has one with the
    same settings; if it has none with any, all of its rows stand at the end.
    """
    arms = [arm for (arm,) in group_rows(rows, "arm")]
    others = [arm for arm in arms if arm != "default"] if "default" in arms else []
    metric = METRICS[rows[0]["metric_name"]]
    unit = _unit(max(row["backward_nfe"] for row in rows))
    columns = ["", "Parameters"]
    for arm in arms:
        columns += [f"{arm}\n{metric.heading}", f"{arm}\nBwd. NFE"]
    columns += [f"{arm}\nsaves" for arm in others]
    lines: list[tuple[str, ...]] = []
    theirs = False  # whether a row of the paper's was found to be of the same settings
    for (variant,), of_variant in group_rows(rows, "variant").items():
        for (backend,), of_backend in group_rows(of_variant, "backend").items():
            name = _named(variant, f"pysemi, {backend}")
            lines.append((name, *_our_cells(of_backend, arms, others, metric, unit)))
        row = None if paper is None else paper.row(of_variant[0]["settings"])
        if paper is not None and row is not None:
            theirs = True
            cells = _paper_cells(row, arms, others, metric)
            lines.append((_named(variant, f"paper, {paper.table}"), *cells))
    notes = ["Bwd. NFE: evaluations of the backward solves, over all of training."]
    if paper is not None and not theirs:
        for values, row in paper.rows.items():
            settings = ", ".join(
                f"{key} = {value}" for key, value in zip(paper.keys, values, strict=True)
            )
            name = f"paper, {paper.table}, {settings}"
            lines.append((name, *_paper_cells(row, arms, others, metric)))
    if paper is not None:
        notes.append(f"The paper's rows were measured on {paper.about}.")
    return Table(f"Results, {_repeats(rows)}", tuple(columns), tuple(lines), tuple(notes))


def step_table(rows: Sequence[Row]) -> Table:
    """Accepted and rejected backward steps over all of training, and what training took."""
    lines = []
    for (variant, backend), group in group_rows(rows, "variant", "backend").items():
        lines += [
            (
                _named(variant, f"{summary.arm}, {backend}"),
                summary.accepted.text(digits=0),
                summary.rejected.text(digits=0),
                f"{summary.proportion_rejected:.1%}",
                summary.forward_nfe.text(digits=0),
                summary.seconds.text(digits=1),
            )
            for summary in summarise(group)
        ]
    return Table(
        "Backward steps and time, over all of training",
        ("", "accepted", "rejected", "proportion\nrejected", "Fwd. NFE", "seconds"),
        tuple(lines),
    )


def _our_cells(
    rows: Sequence[Row],
    arms: Sequence[str],
    others: Sequence[str],
    metric: Metric,
    unit: tuple[float, str],
) -> list[str]:
    summaries = {summary.arm: summary for summary in summarise(rows)}
    cells = [f"{rows[0]['parameters']:,}"]
    for arm in arms:
        summary = summaries.get(arm)
        cells += (
            ["–", "–"]
            if summary is None
            else [
                summary.metric.text(metric.scale, metric.digits),
                f"{summary.backward_nfe.text(unit[0], 2 if unit[1] else 0)}{unit[1]}",
            ]
        )
    return cells + [_percent(saving(list(summaries.values()), arm)) for arm in others]


def _paper_cells(
    row: PaperRow, arms: Sequence[str], others: Sequence[str], metric: Metric
) -> list[str]:
    cells = [f"{row.parameters:,}"]
    unit = _unit(max(value.mean for value in row.backward_nfe.values()))
    for arm in arms:
        cells += [
            _measured(row.metric.get(arm), metric.scale, metric.digits),
            _measured(row.backward_nfe.get(arm), unit[0], 2, unit[1]),
        ]
    means = {arm: value.mean for arm, value in row.backward_nfe.items()}
    return cells + [_percent(_saving(means, arm)) for arm in others]


def _saving(nfe: Mapping[str, float], arm: str) -> float | None:
    if arm == "default" or arm not in nfe or not nfe.get("default"):
        return None
    return 1 - nfe[arm] / nfe["default"]


def proportion_rejected_of(rejected: float, accepted: float) -> float:
    """Rejected among all attempted steps; 0 if there was none."""
    attempts = accepted + rejected
    return rejected / attempts if attempts else 0.0


def _named(variant: str, source: str) -> str:
    return f"{variant}: {source}" if variant else source


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _unit(largest: float) -> tuple[float, str]:
    return next(
        (10.0**exponent, suffix)
        for exponent, suffix in ((6, "M"), (3, "k"), (0, ""))
        if largest >= 10**exponent or exponent == 0
    )


def _repeats(rows: Sequence[Row]) -> str:
    groups = group_rows(rows, "variant", "backend", "arm").values()
    fewest, most = (choose(map(len, groups)) for choose in (min, max))
    if most == 1:
        return "one seed"
    seeds = str(most) if fewest == most else f"{fewest} to {most}"
    return f"mean ± standard deviation over {seeds} seeds"


def _measured(value: Measured | None, scale: float, digits: int, unit: str = "") -> str:
    if value is None:
        return "–"
    return f"{value.mean / scale:.{digits}f} ± {value.std / scale:.{digits}f}{unit}"
