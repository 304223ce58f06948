"""Accuracy against cost of each way to a gradient, on the models of ``pysemi compare``.

    python benchmarks/adjoints.py [--figure docs/figures/adjoints.png] [--models spiral cde ...]

Prints a table; every number in docs/choosing.md comes from here. One torch thread; each solve
is warmed up once and timed as the least of several. The error is that of dL/dθ, relative to its
largest entry, against torch in float64 at 1e-12.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from pysemi.comparison import Setting, build
from pysemi.comparison.measure import on_julia, on_torch, reference
from pysemi.errors import SolveError

MODELS = ("spiral", "cde", "hamiltonian", "cnf", "van-der-pol")
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
REPETITIONS = 5

WAYS = {
    "torch backsolve, default norm": ("torch", "backsolve", "default"),
    "torch backsolve, seminorm": ("torch", "backsolve", "seminorm"),
    "backsolve, default norm": ("julia", "backsolve", "default"),
    "backsolve, seminorm": ("julia", "backsolve", "seminorm"),
    "interpolating, seminorm": ("julia", "interpolating", "seminorm"),
    "gauss": ("julia", "gauss", "default"),
    "quadrature": ("julia", "quadrature", "default"),
    "discrete": ("julia", "discrete", "default"),
}


@dataclass(frozen=True)
class Point:
    """One solve, forward and backward; an evaluation is one of f, with or without its VJPs."""

    tolerance: float
    error: float
    seconds: float
    evaluations: int

    def __str__(self) -> str:
        return f"{self.error:.0e}, {self.evaluations:,}, {1e3 * self.seconds:.2f} ms"


def measure(name: str, backend: str, adjoint: str, norm: str, tolerance: float) -> Point | None:
    """Solve a model several times; None if it cannot be solved so."""
    setting = Setting(rtol=tolerance, norm=norm, adjoint=adjoint)
    solve = on_torch if backend == "torch" else on_julia
    case = build(name)
    try:
        solve(case, setting, False)
        runs = [solve(case, setting, False) for _ in range(REPETITIONS)]
    except SolveError:
        return None
    found = runs[-1]
    exact = reference(name, torch.float64).theta
    error = float((found.gradient.theta - exact).abs().max() / exact.abs().max())
    # The discrete adjoint's products are of evaluations that were made on the way.
    backward = max(found.backward.nfe or 0, found.backward.nvjp or 0)
    evaluations = (found.forward.nfe or 0) + backward
    return Point(tolerance, error, min(run.seconds for run in runs), evaluations)


def table(name: str, points: dict[str, list[Point]]) -> str:
    """Error, evaluations and milliseconds of each way at each tolerance, as Markdown."""
    heads = " | ".join(f"{tolerance:.0e}" for tolerance in TOLERANCES)
    lines = [f"| {name} | {heads} |", "|---" * (1 + len(TOLERANCES)) + "|"]
    for way, found in points.items():
        by_tolerance = {point.tolerance: point for point in found}
        cells = []
        for tolerance in TOLERANCES:
            point = by_tolerance.get(tolerance)
            cells.append("failed" if point is None else str(point))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(path: Path, all_points: dict[str, dict[str, list[Point]]]) -> None:
    """Error over evaluations, a panel for each model."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(1, len(all_points), figsize=(3.2 * len(all_points), 3.4))
    for axis, (name, points) in zip(axes, all_points.items(), strict=True):
        for way, found in points.items():
            style = "--" if way.startswith("torch") else "-"
            axis.loglog(
                [point.evaluations for point in found],
                [point.error for point in found],
                style,
                marker="o",
                markersize=3,
                linewidth=1,
                label=way,
            )
        axis.set_title(name)
        axis.set_xlabel("evaluations of f, both ways")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("relative error of dL/dθ")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    all_points = {}
    for name in arguments.models:
        points = {}
        for way, (backend, adjoint, norm) in WAYS.items():
            found = [measure(name, backend, adjoint, norm, tol) for tol in TOLERANCES]
            points[way] = [point for point in found if point is not None]
        all_points[name] = points
        print(table(name, points), end="\n\n", flush=True)
    if arguments.figure:
        draw(arguments.figure, all_points)


if __name__ == "__main__":
    main()
