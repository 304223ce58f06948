"""torchdiffeq: its adjoint with and without seminorm, and autograd through its solver."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch
from torch import Tensor, nn

from side_by_side.case import Case, Gradient
from side_by_side.problems import Problem
from side_by_side.torch_case import Solve, TorchCase, describe_torch

__all__ = ["describe", "prepare", "reference", "variants"]


def describe() -> dict[str, str]:
    import torchdiffeq  # noqa: F401

    return {"torchdiffeq": importlib.metadata.version("torchdiffeq"), **describe_torch()}


def variants(problem: Problem) -> tuple[str, ...]:
    return ("odeint", "adjoint-seminorm", "adjoint")


def prepare(problem: Problem, variant: str) -> Case:
    return TorchCase(problem, _solver(problem, variant, problem.tolerance, torch.float32))


def reference(problem: Problem) -> Gradient:
    """The problem's loss and gradient in float64, as exactly as is practical."""
    solve = _solver(problem, "odeint", problem.reference_tolerance, torch.float64)
    return TorchCase(problem, solve, torch.float64).solve()


def _solver(problem: Problem, variant: str, tolerance: float, dtype: torch.dtype) -> Solve:
    import torchdiffeq

    solve = torchdiffeq.odeint if variant == "odeint" else torchdiffeq.odeint_adjoint
    options: dict[str, Any] = {}
    if problem.knots is not None:
        # Without the ends: there is nothing beyond them.
        options["jump_t"] = torch.from_numpy(problem.knots).to(dtype)[1:-1]
    arguments: dict[str, Any] = {"options": options}
    if variant == "adjoint-seminorm":
        arguments["adjoint_options"] = {**options, "norm": "seminorm"}
    elif variant == "adjoint":
        arguments["adjoint_options"] = dict(options)

    def run(field: nn.Module, y0: Tensor, t: Tensor) -> Tensor:
        y: Tensor = solve(
            field, y0, t, rtol=tolerance, atol=tolerance, method="dopri5", **arguments
        )
        return y

    return run
