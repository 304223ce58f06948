"""What is shown of the ways to a gradient: tables, and error over cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from pysemi.experiments.figure import arm_style, label_log_axis, new_grid, to_png
from pysemi.experiments.section import Picture, Section, Table
from pysemi.experiments.summary import group_rows

__all__ = ["quadrature_section"]

Row = Mapping[str, Any]


def quadrature_section(title: str, about: str, rows: Sequence[Row], ways: Sequence[str]) -> Section:
    """A table for each problem, and error over evaluations and over time.

    Parameters
    ----------
    title, about : str
    rows : sequence of mapping
        Of the runs, each with its ``measurements``.
    ways : sequence of str
        In the order in which they are shown.
    """
    groups = group_rows(rows, "variant", "backend")
    tables = [
        _table(f"{problem}, on {backend}: {_repeats(group)}", group, ways)
        for (problem, backend), group in groups.items()
    ]
    pictures = []
    backends = group_rows(rows, "backend")
    for (backend,), own in backends.items():
        name, on = (f"-{backend}", f", on {backend}") if len(backends) > 1 else ("", "")
        pictures.append(
            Picture(
                f"gradient-error{name}",
                f"Error of the gradient over what it cost{on}",
                "Each line is one way, each point a tolerance; geometric means over the seeds. "
                "Left: evaluations of the vector field or of its products in the backward solve, "
                "whichever are more. Right: seconds of both directions.",
                _figure(own, ways),
            )
        )
    return Section(title, about, tables, pictures)


def _table(title: str, rows: Sequence[Row], ways: Sequence[str]) -> Table:
    lines = []
    notes = []
    measured = [one for row in rows for one in row["measurements"]]
    for tolerance in sorted({one["tolerance"] for one in measured}, reverse=True):
        base = _of(measured, "backsolve-seminorm", tolerance)
        for way in ways:
            found = _of(measured, way, tolerance)
            failed = [
                one["failure"]
                for one in measured
                if (one["way"], one["tolerance"]) == (way, tolerance) and one["failure"]
            ]
            if failed:
                notes.append(f"{way} at {tolerance:g} failed {len(failed)} times: {failed[0]}")
            if not found:
                continue
            lines.append(
                (
                    f"{tolerance:g}: {way}",
                    f"{_geometric(one['error'] for one in found):.1e}",
                    f"{mean(one['forward_nfe'] for one in found):,.0f}",
                    f"{mean(one['backward_nfe'] for one in found):,.0f}",
                    f"{mean(one['nvjp'] for one in found):,.0f}",
                    f"{mean(one['accepted'] for one in found):,.0f}",
                    f"{mean(one['rejected'] for one in found):,.0f}",
                    f"{1e3 * mean(one['seconds'] for one in found):,.1f}",
                    _ratio(found, base),
                )
            )
    notes.append(
        "Error: of dL/dθ, relative to its norm, geometric mean. Time: of both directions, and its "
        "ratio to that of backsolve with the seminorm at the same tolerance."
    )
    columns = (
        "tolerance: way",
        "error",
        "Fwd. NFE",
        "Bwd. NFE",
        "products",
        "accepted",
        "rejected",
        "ms",
        "ratio",
    )
    return Table(title, columns, tuple(lines), tuple(dict.fromkeys(notes)))


def _figure(rows: Sequence[Row], ways: Sequence[str]) -> bytes:
    problems = group_rows(rows, "variant")
    figure, axes = new_grid(len(problems), 2, height=2.9)
    for (left, right), ((problem,), group) in zip(axes, problems.items(), strict=True):
        measured = [one for row in group for one in row["measurements"]]
        tolerances = sorted({one["tolerance"] for one in measured}, reverse=True)
        for way in ways:
            points = [found for tolerance in tolerances if (found := _of(measured, way, tolerance))]
            errors = [_geometric(one["error"] for one in found) for found in points]
            style = {**arm_style(way, ways), "markersize": 4, "label": way}
            left.plot([mean(map(_cost, found)) for found in points], errors, **style)
            right.plot([mean(one["seconds"] for one in found) for found in points], errors, **style)
        left.set(title=problem, ylabel="relative error of dL/dθ", xlabel="backward evaluations")
        right.set(title=problem, xlabel="seconds")
        for panel in (left, right):
            panel.set(xscale="log", yscale="log")
            label_log_axis(panel.xaxis)
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        lines, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize="small"
    )
    return to_png(figure)


def _of(measured: Iterable[Row], way: str, tolerance: float) -> list[Row]:
    return [
        one
        for one in measured
        if one["way"] == way and one["tolerance"] == tolerance and not one["failure"]
    ]


def _cost(one: Row) -> int:
    # The discrete adjoint's products are of evaluations that were made on the way.
    return int(max(one["backward_nfe"], one["nvjp"]))


def _ratio(found: Sequence[Row], base: Sequence[Row]) -> str:
    if not base:
        return "–"
    return f"{mean(o['seconds'] for o in found) / mean(o['seconds'] for o in base):.2f}"


def _geometric(values: Iterable[float]) -> float:
    return math.exp(mean(math.log(max(value, 1e-300)) for value in values))


def _repeats(rows: Sequence[Row]) -> str:
    seeds = len({row["seed"] for row in rows})
    return "one seed" if seeds == 1 else f"means over {seeds} seeds"
