"""How time and memory of a training step's solves grow with the problem.

One number of a problem is varied at a time: parameters, state, horizon, observations, batch. For
every adjoint of pysemi's on Julia, and torchdiffeq's ways; float32, one thread. The slope is
that of time against the number, both as logarithms, over its upper half: 1 is proportional.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from side_by_side.axes import AXES
from side_by_side.machine import describe_machine, load
from side_by_side.workers import Worker, WorkerError

VARIANTS = {
    "pysemi": ("discrete", "gauss", "backsolve-seminorm"),
    "torchdiffeq": ("odeint", "adjoint-seminorm"),
}
START_SECONDS = 1800.0
"""For a package to start: the first time after a change, PySemi.jl is compiled."""

STEP_SECONDS = 2.0
"""For the timed steps of one point; each gets one step at least."""


@dataclass(frozen=True)
class Point:
    """One measurement; None where it failed, and ``note`` says why."""

    axis: str
    value: int
    package: str
    variant: str
    step_ms: float | None
    peak_mb: float | None
    note: str | None = None


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, and write what was asked for."""
    arguments = _arguments(argv)
    points: list[Point] = []
    versions: dict[str, dict[str, str]] = {}
    machine = describe_machine(versions, ["--growth", *argv])
    for package, variants in VARIANTS.items():
        worker = Worker(package)
        try:
            versions[package] = worker.ask({"do": "describe"}, START_SECONDS)["versions"]
        except WorkerError as error:
            print(f"{package} is left out: {error}", flush=True)
            continue
        try:
            for axis in arguments.axes:
                for variant in variants:
                    points += _measured(worker, axis, variant, arguments.limit)
        finally:
            worker.stop()
    print(growth_table(points))
    if arguments.json is not None:
        machine |= {"versions": versions, "load_end": load()}
        written = {"machine": machine, "points": [asdict(point) for point in points]}
        arguments.json.write_text(json.dumps(written, indent=1), "utf-8")
    if arguments.plot is not None:
        plot(points, arguments.plot)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pysemi bench --growth", description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw them here (needs matplotlib)"
    )
    parser.add_argument(
        "--limit", type=float, default=120.0, metavar="SECONDS", help="for one point of one curve"
    )
    return parser.parse_args(argv)


def _measured(worker: Worker, axis: str, variant: str, limit: float) -> list[Point]:
    """One curve; after a point that takes too long, those that are larger are left out."""
    curve: list[Point] = []
    for value in AXES[axis].values:
        request = {
            "do": "grow",
            "axis": axis,
            "value": value,
            "variant": variant,
            "seconds": STEP_SECONDS,
        }
        try:
            answer = worker.ask(request, limit)
        except WorkerError as error:
            curve.append(Point(axis, value, worker.package, variant, None, None, str(error)))
            break
        peak = answer["peak_bytes"]
        curve.append(
            Point(
                axis,
                value,
                worker.package,
                variant,
                1e3 * median(answer["step_s"]),
                None if peak is None else peak / 1e6,
            )
        )
        if sys.stderr.isatty():
            print(curve[-1], file=sys.stderr, flush=True)
    return curve


def slope(values: Sequence[float], costs: Sequence[float]) -> float | None:
    """Of the logarithms, by least squares over the upper half; None of fewer than two points.

    >>> round(slope([1, 10, 100], [5.0, 50.0, 5000.0]), 3)
    2.0
    """
    start = (len(values) - 1) // 2
    if len(values) - start < 2:
        return None
    x, y = np.log(values[start:]), np.log(costs[start:])
    return float(np.polyfit(x, y, 1)[0])


def curves(points: Sequence[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Points that belong together, by axis, package and variant."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        found.setdefault((point.axis, point.package, point.variant), []).append(point)
    return found


def growth_table(points: Sequence[Point]) -> str:
    """Markdown: a table for each axis, with a row for each variant."""
    lines: list[str] = []
    notes: list[str] = []
    for axis in dict.fromkeys(point.axis for point in points):
        values = AXES[axis].values
        heads = [f"{AXES[axis].what}: ms (MB)", *(f"{value:,}" for value in values), "slope"]
        lines += ["", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for (_, package, variant), curve in curves(
            [point for point in points if point.axis == axis]
        ).items():
            by_value = {point.value: point for point in curve}
            cells = [_cell(by_value.get(value)) for value in values]
            timed = [point for point in curve if point.step_ms is not None]
            found = slope([p.value for p in timed], [p.step_ms for p in timed if p.step_ms])
            ended = "–" if found is None else f"{found:.2f}"
            lines.append(f"| {' | '.join([f'{package} {variant}', *cells, ended])} |")
            notes += [
                f"{axis} {point.value:,}, {package} {variant}: {point.note}"
                for point in curve
                if point.note
            ]
    return "\n".join([*lines[1:], *(["", *notes] if notes else [])])


def _cell(point: Point | None) -> str:
    if point is None or point.step_ms is None:
        return "–"
    memory = "" if point.peak_mb is None else f" ({point.peak_mb:.3g})"
    return f"{point.step_ms:.3g}{memory}"


def plot(points: Sequence[Point], file: Path) -> None:
    """Draw time and memory against each axis, as logarithms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    axes = list(dict.fromkeys(point.axis for point in points))
    figure, panels = plt.subplots(
        2, len(axes), figsize=(3.2 * len(axes), 5.6), squeeze=False, layout="constrained"
    )
    marks = dict(zip(_variants(points), "osd^v", strict=False))
    for column, axis in enumerate(axes):
        for (_, package, variant), curve in curves([p for p in points if p.axis == axis]).items():
            style = "-" if package == "pysemi" else "--"
            for panel, name in zip(panels[:, column], ("step_ms", "peak_mb"), strict=True):
                drawn = [(p.value, getattr(p, name)) for p in curve if getattr(p, name)]
                label = f"{package} {variant}"
                panel.loglog(
                    *zip(*drawn, strict=True) if drawn else ((), ()),
                    style,
                    marker=marks[package, variant],
                    markersize=4,
                    label=label,
                )
        panels[1, column].set_xlabel(AXES[axis].what)
        for panel in panels[:, column]:
            values = AXES[axis].values
            panel.set_xticks(values, [_short(value) for value in values], fontsize=8)
            panel.xaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylabel("ms of a training step's solves")
    panels[1, 0].set_ylabel("MB at most during it")
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _short(value: int) -> str:
    """For an axis: 1600000 is 1.6M, 50000 is 50k."""
    if value < 10_000:
        return str(value)
    return f"{value / 1e6:g}M" if value >= 1_000_000 else f"{value / 1e3:g}k"


def _variants(points: Sequence[Point]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((point.package, point.variant) for point in points))
