"""Table 4 and Figure 6 of the paper: made from what finished runs recorded, of nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from pysemi.errors import ResultsError
from pysemi.experiments.figure import COLOURS, label_log_axis, new_figure, to_png
from pysemi.experiments.paper import (
    TABLE_4,
    Measured,
)
from pysemi.experiments.results import Results
from pysemi.experiments.section import Picture, Section, Table
from pysemi.experiments.summary import group_rows, proportion_rejected_of, saving, summarise

__all__ = ["RECORDED", "Recorded", "figure_6", "further_sections", "table_4"]


@dataclass(frozen=True)
class Recorded:
    """Something shown of runs that were made for other experiments.

    Attributes
    ----------
    name : str
        As on the command line.
    title, about : str
    make : callable
        From results to a section.
    """

    name: str
    title: str
    about: str
    make: Callable[[Sequence[Results]], Section]


_STEP_COLUMNS = (
    "",
    "Rejected\ndefault",
    "Rejected\nseminorm",
    "Accepted\ndefault",
    "Accepted\nseminorm",
    "Proportion rejected\ndefault",
    "Proportion rejected\nseminorm",
)


def table_4(results: Sequence[Results]) -> Section:
    """Rejected and accepted backward steps of one pass over the test set.

    Raises
    ------
    ResultsError
        If there is no run with the default norm that has one with the seminorm beside it.
    """
    ours = []
    for name, rows in _compared(results):
        found = {summary.arm: summary for summary in summarise(rows)}
        arms = (found["default"], found["seminorm"])
        ours.append(
            (
                name,
                *(arm.test_rejected.text(digits=0) for arm in arms),
                *(arm.test_accepted.text(digits=0) for arm in arms),
                *(f"{arm.test_proportion_rejected:.1%}" for arm in arms),
            )
        )
    theirs = []
    for name, row in TABLE_4.items():
        shares = [
            proportion_rejected_of(row.rejected[norm].mean, row.accepted[norm].mean)
            for norm in ("default", "seminorm")
        ]
        theirs.append(
            (
                f"paper, {name}",
                *(_thousands(row.rejected[norm]) for norm in ("default", "seminorm")),
                *(_thousands(row.accepted[norm]) for norm in ("default", "seminorm")),
                *(f"{share:.1%}" for share in shares),
            )
        )
    return Section(
        RECORDED["table-4"].title,
        RECORDED["table-4"].about,
        [
            Table("pysemi", _STEP_COLUMNS, tuple(ours)),
            Table(
                "The paper's Table 4",
                _STEP_COLUMNS,
                tuple(theirs),
                (
                    "The proportions are those of the means shown. They are the paper's own up to "
                    "rounding, but for MNIST (d_h = 64) with the default norm, where the paper "
                    "prints 38.53 %.",
                ),
            ),
        ],
        [],
    )


def figure_6(results: Sequence[Results]) -> Section:
    """The ratio (1 + 2d + p) / (1 + 2d) against the backward evaluations saved.

    Raises
    ------
    ResultsError
        If there is no run with the default norm that has one with the seminorm beside it.
    """
    points = []
    for name, rows in _compared(results):
        share = saving(summarise(rows), "seminorm")
        assert share is not None  # both arms are there
        points.append((name, mean(row["size_ratio"] for row in rows), share, rows[0]))
    table = Table(
        "Size and saving",
        ("", "d", "p", "(1+2d+p)/(1+2d)", "Bwd. NFE saved"),
        tuple(
            (
                name,
                f"{row['state_size']:,.0f}",
                f"{row['parameter_size']:,.0f}",
                f"{ratio:.3g}",
                f"{share:.0%}",
            )
            for name, ratio, share, row in points
        ),
        (
            "d: channels of the state that one solve integrates, all of a batch together. p: "
            "parameters of its vector field. Of a flow of several blocks, means over the blocks.",
        ),
    )
    picture = Picture(
        "parameter-state-ratio",
        "Parameter-state ratio against saving",
        "In the form of the paper's Figure 6: by what factor the default norm looks at more "
        "channels than the seminorm, and the relative decrease in backward evaluations. The "
        "paper's savings, at the sizes it gives, stand in the tables of the experiments; its "
        "figure has no axis values in the text to be compared with.",
        _ratio_figure([(name, ratio, share) for name, ratio, share, _ in points]),
    )
    return Section(RECORDED["figure-6"].title, RECORDED["figure-6"].about, [table], [picture])


RECORDED: Mapping[str, Recorded] = {
    one.name: one
    for one in (
        Recorded(
            "table-4",
            "Accepted and rejected steps (Table 4)",
            "Backward steps of one pass of the trained models over their test sets, from recorded "
            "runs.",
            table_4,
        ),
        Recorded(
            "figure-6",
            "Where improvements come from (Figure 6)",
            "The ratio between the sizes of state and parameters against what the seminorm saves, "
            "from recorded runs.",
            figure_6,
        ),
    )
}
"""By name."""


def further_sections(results: Sequence[Results]) -> list[Section]:
    """Everything of :data:`RECORDED` that these results are enough for."""
    try:
        return [recorded.make(results) for recorded in RECORDED.values()]
    except ResultsError:
        return []


def _compared(
    results: Sequence[Results],
) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The rows of each experiment, preset, variant and backend that has both norms."""
    rows = [row for result in results for row in result.rows if "test_accepted" in row]
    groups = group_rows(rows, "experiment", "preset", "variant", "backend")
    several = len({preset for _, preset, _, _ in groups}) > 1
    compared: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
    for (experiment, preset, variant, backend), group in groups.items():
        arms = {row["arm"] for row in group}
        if {"default", "seminorm"} <= arms:
            words = [experiment, preset if several else "", variant, backend]
            both = [row for row in group if row["arm"] in ("default", "seminorm")]
            compared.append((", ".join(word for word in words if word), both))
    if not compared:
        raise ResultsError(
            "there is no recorded run with the default norm and one with the seminorm beside it; "
            "make some first, for example by `pysemi reproduce japanese-vowels`"
        )
    return compared


def _ratio_figure(points: Sequence[tuple[str, float, float]]) -> bytes:
    figure, (axes,) = new_figure(1, height=4.4)
    backends = list(dict.fromkeys(name.rsplit(", ", 1)[1] for name, _, _ in points))
    for name, ratio, share in points:
        backend = backends.index(name.rsplit(", ", 1)[1])
        axes.scatter(ratio, 100 * share, color=COLOURS[backend], marker="os^D"[backend], zorder=3)
    for numbers, place in _labels([(ratio, 100 * share) for _, ratio, share in points]):
        axes.annotate(numbers, place, xytext=(6, 4), textcoords="offset points")
    for backend, word in enumerate(backends):
        axes.scatter([], [], color=COLOURS[backend], marker="os^D"[backend], label=word)
    axes.axhline(0, color="#4b5d61", linewidth=0.8)
    axes.set(xscale="log", xlabel="(1 + 2d + p) / (1 + 2d)", ylabel="backward NFE saved (%)")
    label_log_axis(axes.xaxis)
    axes.legend(frameon=False)
    key = "\n".join(f"{number}  {name.rsplit(', ', 1)[0]}" for number, (name, _, _) in
                    enumerate(points, start=1))  # fmt: skip
    axes.text(1.02, 1, key, transform=axes.transAxes, va="top", fontsize="small")
    return to_png(figure)


def _labels(
    places: Sequence[tuple[float, float]],
) -> list[tuple[str, tuple[float, float]]]:
    """The numbers of the points, those of points too close to be told apart in one label."""
    groups: list[tuple[list[str], tuple[float, float]]] = []
    for number, (x, y) in enumerate(places, start=1):
        for numbers, (other_x, other_y) in groups:
            if abs(math.log(x / other_x)) < NEAR_FACTOR and abs(y - other_y) < NEAR_PERCENT:
                numbers.append(str(number))
                break
        else:
            groups.append(([str(number)], (x, y)))
    return [(", ".join(numbers), place) for numbers, place in groups]


NEAR_FACTOR = 0.12
NEAR_PERCENT = 4.0
"""Within which two labels of Figure 6 would lie on one another."""


def _thousands(value: Measured) -> str:
    return f"{value.mean * 1000:,.0f} ± {value.std * 1000:,.0f}"
