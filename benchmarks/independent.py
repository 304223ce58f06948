"""Independent trajectories: pysemi's and torchode's, and what solving them jointly costs.

    pip install torchode
    python benchmarks/independent.py [--trajectories 64] [--threads 1]

Both take a batch of which every trajectory has step sizes of its own. Two problems, float64,
dopri5, rtol = atol = 1e-6, loss the sum of squares at ten times, forward and backward:

- van der Pol's oscillator, its damping from 1 to 8: torchode's own example, where one
  trajectory's fast phase makes all others wait;
- a perceptron 2-64-64-2, whose matrix products have a batch to gain from.

Each way is warmed up once; times are the least of several.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
import torchode
from torch import Tensor, nn

import pysemi

TOLERANCE = 1e-6
REPETITIONS = 5
T = torch.linspace(0, 10, 11, dtype=torch.float64)


class VanDerPol(nn.Module):
    """(x, v, μ)' = (v, μ (1 - x²) v - x, 0): each trajectory carries its own damping μ."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v, damping = y.unbind(-1)
        acceleration = damping * (1 - x**2) * v - self.stiffness * x
        return torch.stack([v, acceleration, torch.zeros_like(v)], dim=-1)


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (2, 64, 64, 2)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.net = nn.Sequential(*[m for x in layers for m in (x, nn.Tanh())][:-1]).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y**3) - 0.1 * y


def van_der_pol(trajectories: int) -> tuple[nn.Module, Tensor]:
    damping = torch.linspace(1, 8, trajectories, dtype=torch.float64)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64).expand(trajectories, 2)
    return VanDerPol(), torch.cat([start, damping[:, None]], dim=1)


def perceptron(trajectories: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    scale = torch.linspace(0.1, 2, trajectories, dtype=torch.float64)
    return Perceptron(), scale[:, None] * torch.randn(trajectories, 2, dtype=torch.float64)


def by_torchode(field: nn.Module, y0: Tensor) -> tuple[Tensor, Tensor]:
    """The solution, shape (T, B, n), and the steps of each trajectory."""
    term = torchode.ODETerm(field)
    controller = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    problem = torchode.InitialValueProblem(y0=y0, t_eval=T.expand(len(y0), -1))
    solution = solver.solve(problem)
    return solution.ys.transpose(0, 1), solution.stats["n_steps"]


def by_pysemi(adjoint: str, **options: str) -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]:
    def solve(field: nn.Module, y0: Tensor) -> tuple[Tensor, Tensor]:
        with pysemi.record() as solves:
            y = pysemi.odeint_adjoint(
                field, y0, T, rtol=TOLERANCE, atol=TOLERANCE, adjoint=adjoint, **options
            )
        return y, steps_of(solves)

    return solve


def by_torchdiffeq(field: nn.Module, y0: Tensor) -> tuple[Tensor, Tensor]:
    with pysemi.record() as solves:
        y = pysemi.odeint(field, y0, T, rtol=TOLERANCE, atol=TOLERANCE, backend="torch")
    return y, steps_of(solves)


def steps_of(solves: pysemi.Recording) -> Tensor:
    return torch.tensor([(x.accepted or 0) + (x.rejected or 0) for x in solves.forward])


WAYS = {
    "torchode, through the solver": by_torchode,
    "pysemi, independent, discrete": by_pysemi("discrete", backend="julia", batch="independent"),
    "pysemi, independent, interpolating": by_pysemi(
        "interpolating", backend="julia", batch="independent"
    ),
    "pysemi, joint, discrete": by_pysemi("discrete", backend="julia"),
    "torchdiffeq, joint, through the solver": by_torchdiffeq,
}


def measure(solve: Callable[..., tuple[Tensor, Tensor]], field: nn.Module, y0: Tensor) -> str:
    """A row's cells: steps of the quickest and of the slowest trajectory, milliseconds."""
    best, steps, gradient = float("inf"), torch.zeros(1), torch.zeros(())
    for _ in range(1 + REPETITIONS):
        began = time.perf_counter()
        y, steps = solve(field, y0)
        gradients = torch.autograd.grad((y**2).sum(), list(field.parameters()))
        best = min(best, time.perf_counter() - began)
        gradient = torch.cat([g.reshape(-1) for g in gradients]).norm()
    between = f"{int(steps.min())} to {int(steps.max())}"
    return f"{between} | {1e3 * best:.1f} | {float(gradient):.6g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, make in (("van der Pol", van_der_pol), ("perceptron", perceptron)):
        field, y0 = make(arguments.trajectories)
        print(f"\n| {name}, {len(y0)} trajectories | steps | ms | norm of dL/dθ |")
        print("|---|---|---|---|")
        for way, solve in WAYS.items():
            print(f"| {way} | {measure(solve, field, y0)} |", flush=True)


if __name__ == "__main__":
    main()
