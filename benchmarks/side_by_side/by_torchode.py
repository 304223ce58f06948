"""torchode: autograd through its solver, and its joint backward solve.

Its trajectories have step sizes of their own in the first, and common ones in the second. It
has no jump times, so it does not solve the controlled problems; its adjoint that solves a copy
of the parameters' gradient for every trajectory is left out.
"""

from __future__ import annotations

import importlib.metadata

from torch import Tensor, nn

from side_by_side.case import Case
from side_by_side.problems import Problem
from side_by_side.torch_case import Solve, TorchCase, describe_torch

__all__ = ["describe", "prepare", "variants"]


def describe() -> dict[str, str]:
    import torchode  # noqa: F401

    return {"torchode": importlib.metadata.version("torchode"), **describe_torch()}


def variants(problem: Problem) -> tuple[str, ...]:
    return () if problem.kind == "controlled" else ("autodiff", "joint-backsolve")


def prepare(problem: Problem, variant: str) -> Case:
    return TorchCase(problem, _solver(problem, variant))


class _Flat(nn.Module):
    """A vector field on states of one dimension, which are all that torchode knows."""

    def __init__(self, field: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.field = field
        self.shape = shape

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.field(t, y.unflatten(1, self.shape)).flatten(1)
        return out


def _solver(problem: Problem, variant: str) -> Solve:
    import torchode

    batch, *shape = problem.y0.shape

    def run(field: nn.Module, y0: Tensor, t: Tensor) -> Tensor:
        flat = _Flat(field, tuple(shape)) if len(shape) > 1 else field
        # Its own counting of evaluations costs time and nobody looks at it.
        term = torchode.ODETerm(flat, with_stats=False)
        controller = torchode.IntegralController(
            atol=problem.tolerance, rtol=problem.tolerance, term=term
        )
        method = torchode.Dopri5(term=term)
        if variant == "autodiff":
            solver = torchode.AutoDiffAdjoint(
                method, controller, backprop_through_step_size_control=False
            )
        else:
            solver = torchode.JointBacksolveAdjoint(term, method, controller)
        started = torchode.InitialValueProblem(
            y0=y0.flatten(1), t_eval=t.expand(batch, -1).contiguous()
        )
        solution = solver.solve(started) if variant != "autodiff" else solver.solve(started, term)
        y: Tensor = solution.ys.transpose(0, 1).unflatten(2, tuple(shape))
        return y

    return run
