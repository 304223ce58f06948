"""A run's tables, for people, and its file, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side.measure import Row
from side_by_side.targets import outcomes

__all__ = ["ratios_table", "rows_table", "write_json"]

_HEADS = (
    "problem",
    "obs.",
    "package",
    "variant",
    "step ms",
    "quartiles",
    "forward",
    "backward",
    "NFE",
    "µs/NFE",
    "compile s",
    "gradient error",
)


def rows_table(rows: Sequence[Row]) -> str:
    """Every row, as Markdown; below it, which rows have no time and why.

    NFE is of the forward and of the backward solve; microseconds are of the forward solve, by
    its NFE, which every package has.
    """
    lines = [_line(_HEADS), "|" + "---|" * len(_HEADS)]
    lines += [_line(_cells(row)) for row in rows]
    notes = [
        f"{row.problem}, {row.observations} observations, {row.package} {row.variant}: {row.note}"
        for row in rows
        if row.note is not None
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _cells(row: Row) -> list[str]:
    per_nfe = None
    if row.forward_ms is not None and row.nfe_forward:
        per_nfe = 1e3 * row.forward_ms / row.nfe_forward
    quartiles = "–" if row.spread is None else " to ".join(map(_number, row.spread))
    counts = [f"{n:,}" if n is not None else "?" for n in (row.nfe_forward, row.nfe_backward)]
    return [
        row.problem,
        str(row.observations),
        row.package,
        row.variant,
        _number(row.step_ms),
        quartiles,
        _number(row.forward_ms),
        _number(row.backward_ms),
        " + ".join(counts),
        _number(per_nfe),
        "–" if row.compile_s is None else f"{row.compile_s:.2f}",
        "–" if row.gradient_error is None else f"{row.gradient_error:.0e}",
    ]


def ratios_table(rows: Sequence[Row]) -> str:
    """Each problem's ratios with their targets, as Markdown; empty if there are none."""
    heads = ("problem", "obs.", "pysemi's fastest", "ratio", "against", "target", "met")
    lines = []
    for outcome in outcomes(rows):
        sign = "≤" if outcome.ratio.is_share else "≥"
        lines.append(
            _line(
                [
                    outcome.problem,
                    str(outcome.observations),
                    "–" if outcome.mine is None else outcome.mine.variant,
                    _number(outcome.value),
                    outcome.ratio.label
                    + ("" if outcome.theirs is None else f" ({outcome.theirs.variant})"),
                    "–" if outcome.target is None else f"{sign} {outcome.target:g}",
                    {True: "yes", False: "NO", None: "–"}[outcome.met],
                ]
            )
        )
    return "\n".join([_line(heads), "|" + "---|" * len(heads), *lines]) if lines else ""


def write_json(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write ``{"machine": ..., "rows": [...]}``."""
    text = json.dumps(
        {"machine": machine, "rows": [row.as_dict() for row in rows]},
        indent=1,
        allow_nan=False,
        ensure_ascii=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
