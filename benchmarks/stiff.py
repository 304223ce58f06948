"""Stiff problems: which methods get through, in how many steps, with which gradient.

    python benchmarks/stiff.py [--figure docs/figures/stiff.png]

Prints the tables of docs/choosing.md. Two problems: Robertson's reactions to t = 1e4, whose
parameters are the logarithms of the rates; and a van der Pol oscillator in Liénard's
coordinates whose damping has a network in it, at several stiffnesses mu. The error is that of
dL/dθ, relative to its largest entry, against Rodas5P at a tolerance of 1e-10. One torch thread;
each solve is warmed up once and timed as the least of several.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pysemi
from pysemi.errors import SolveError, StepBudgetError

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
SHOWN = 1e-6
STIFFNESSES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
REPETITIONS = 2

METHODS: dict[str, dict[str, Any]] = {
    "Rodas5P": {"method": "Rodas5P", "backend": "julia"},
    "KenCarp4": {"method": "KenCarp4", "backend": "julia"},
    "TRBDF2": {"method": "TRBDF2", "backend": "julia"},
    **{
        f"{method}, backward Rodas5P": {
            "method": method,
            "adjoint_method": "Rodas5P",
            "backend": "julia",
        }
        for method in ("KenCarp4", "TRBDF2", "FBDF")
    },
    "auto": {"method": "auto", "backend": "julia"},
    "Tsit5": {"method": "Tsit5", "backend": "julia"},
    "dopri5 on torch": {"method": "dopri5", "adjoint": "backsolve", "backend": "torch"},
}
BUDGETS = {"julia": 100_000, "torch": 5_000}
EXPLICIT = ("Tsit5", "dopri5 on torch")


class Robertson(nn.Module):
    """A -> B at k1, 2 B -> B + C at k2, B + C -> A + C at k3."""

    def __init__(self) -> None:
        super().__init__()
        rates = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)
        self.log_rates = nn.Parameter(rates.log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        k1, k2, k3 = self.log_rates.exp()
        a, b, c = y.unbind(-1)
        first, second, third = k1 * a, k2 * b * b, k3 * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)


class Relaxation(nn.Module):
    """mu^-2 x' = y - g(x), y' = -x, where g is van der Pol's and a small network."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu
        torch.manual_seed(0)
        self.correction = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        x, y = state[..., :1], state[..., 1:]
        damping = x**3 / 3 - x + 0.1 * self.correction(x)
        return torch.cat([self.mu**2 * (y - damping), -x], dim=-1)


@dataclass(frozen=True)
class Case:
    """A field, its start, its times and a loss."""

    field: nn.Module
    y0: Tensor
    t: Tensor
    atol: float
    adjoint_atol: float
    """Of y and of its adjoint, relative to rtol."""
    loss: Callable[[Tensor], Tensor]

    def gradient(self, rtol: float, **options: Any) -> Tensor:
        """Of the loss, all parameters in one vector."""
        y = pysemi.odeint_adjoint(
            self.field,
            self.y0,
            self.t,
            rtol=rtol,
            atol=self.atol * rtol,
            adjoint_atol=self.adjoint_atol * rtol,
            **{"adjoint": "quadrature", **options},
        )
        found = torch.autograd.grad(self.loss(y), tuple(self.field.parameters()))
        return torch.cat([part.reshape(-1) for part in found])


def robertson() -> Case:
    """To t = 1e4, all three species equally important."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    t = torch.tensor([0.0, 1e-2, 1.0, 1e2, 1e4], dtype=torch.float64)
    scale = torch.tensor([1.0, 1e4, 1.0], dtype=torch.float64)
    return Case(Robertson(), y0, t, 1e-4, 1e-4, lambda y: (y * scale).sum())


def relaxation(mu: float) -> Case:
    """Three trajectories, each with one or two jumps between its slow branches."""
    y0 = torch.tensor([[2.0, 0.6], [1.7, -0.1], [-1.8, 0.1]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 1.0, 1.4], dtype=torch.float64)
    # The adjoint of x is smaller than that of y by the ratio of the time scales.
    return Case(Relaxation(mu), y0, t, 1.0, mu**-2, lambda y: y.sin().sum())


@dataclass(frozen=True)
class Point:
    """One solve, forward and backward."""

    tolerance: float
    error: float
    forward: int
    backward: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.error:.0e}, {self.forward:,} + {self.backward:,}, {1e3 * self.seconds:.1f} ms"
        )


def measure(case: Case, exact: Tensor, tolerance: float, options: dict[str, Any]) -> Point | str:
    """Solve a case several times; or how far it came."""
    limits = {"max_num_steps": BUDGETS[options["backend"]]}
    seconds = []
    try:
        for _ in range(1 + REPETITIONS):
            began = time.perf_counter()
            with pysemi.record() as solves:
                found = case.gradient(tolerance, options=limits, adjoint_options=limits, **options)
            seconds.append(time.perf_counter() - began)
    except StepBudgetError as error:
        return f"t = {error.t:.2g} after {limits['max_num_steps']:,} steps"
    except SolveError as error:
        return f"failed: {error}"
    return Point(
        tolerance,
        float((found - exact).abs().max() / exact.abs().max()),
        solves.forward[0].accepted or 0,
        solves.backward[0].accepted or 0,
        min(seconds[1:]),
    )


def steps_ahead(mu: float, options: dict[str, Any]) -> int | None:
    """Accepted steps of a forward solve; None beyond the budget."""
    case = relaxation(mu)
    known = {key: options[key] for key in ("method", "backend")}
    limits = {"max_num_steps": BUDGETS[options["backend"]]}
    with pysemi.record() as solves, torch.no_grad():
        try:
            pysemi.odeint(
                case.field, case.y0, case.t, rtol=SHOWN, atol=SHOWN, options=limits, **known
            )
        except SolveError:
            return None
    return solves.forward[0].accepted


def draw(
    path: Path,
    by_stiffness: dict[str, list[int | None]],
    by_case: dict[str, dict[str, list[Point]]],
) -> None:
    """Steps over stiffness; error over steps, a panel for each case."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(1, 1 + len(by_case), figsize=(11, 3.6))
    colors = {name: f"C{index}" for index, name in enumerate(METHODS)}
    look = {"marker": "o", "markersize": 3, "linewidth": 1}
    for name, steps in by_stiffness.items():
        done = [(mu, n) for mu, n in zip(STIFFNESSES, steps, strict=True) if n is not None]
        axes[0].loglog(*zip(*done, strict=True), color=colors[name], label=name, **look)
    axes[0].set_title("van der Pol network")
    axes[0].set_xlabel("stiffness mu")
    axes[0].set_ylabel("steps of the forward solve")
    for axis, (title, points) in zip(axes[1:], by_case.items(), strict=True):
        for name, found in points.items():
            if found:
                steps, errors = zip(
                    *((p.forward + p.backward, p.error) for p in found), strict=True
                )
                axis.loglog(steps, errors, color=colors[name], **look)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title)
        axis.set_xlabel("steps, forward and backward")
        axis.set_ylabel("relative error of dL/dθ")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {"Robertson": robertson(), "van der Pol network, mu = 1000": relaxation(1000.0)}
    by_case: dict[str, dict[str, list[Point]]] = {}
    shown: dict[str, list[str]] = {name: [] for name in METHODS}
    for title, case in cases.items():
        exact = case.gradient(1e-10, method="Rodas5P", backend="julia")
        by_case[title] = {}
        for name, options in METHODS.items():
            tolerances = (SHOWN,) if name in EXPLICIT else TOLERANCES
            results = {tol: measure(case, exact, tol, options) for tol in tolerances}
            by_case[title][name] = [x for x in results.values() if isinstance(x, Point)]
            shown[name].append(str(results[SHOWN]))
            print(title, name, *map(str, results.values()), sep=" | ", flush=True)
    print(f"\n| tolerance {SHOWN:.0e} | {' | '.join(cases)} |\n|---|---|---|")
    for name, cells in shown.items():
        print(f"| {name} | {' | '.join(cells)} |")
    by_stiffness = {
        name: [steps_ahead(mu, options) for mu in STIFFNESSES] for name, options in METHODS.items()
    }
    print(f"\n| mu | {' | '.join(f'{mu:g}' for mu in STIFFNESSES)} |")
    print("|---" * (1 + len(STIFFNESSES)) + "|")
    for name, steps in by_stiffness.items():
        cells = ["none" if n is None else f"{n:,}" for n in steps]
        print(f"| {name} | {' | '.join(cells)} |")
    if arguments.figure:
        draw(arguments.figure, by_stiffness, by_case)


if __name__ == "__main__":
    main()
