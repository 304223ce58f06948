"""Solves, and joins a backend's forward and backward solves into one autograd function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pysemi.backends.base import Backend, Solution
from pysemi.errors import DoubleBackwardError
from pysemi.problem import Adjoint, Problem
from pysemi.stats import Recording, open_recordings
from pysemi.trajectories import check_independent

__all__ = ["interpolate", "solve"]


def solve(
    backend: Backend, problem: Problem, adjoint: Adjoint | None, recordings: Sequence[Recording]
) -> Solution:
    """Solve forward; the outputs' gradient is found by solving the adjoint backward.

    Parameters
    ----------
    adjoint : Adjoint or None
        What the backend's ``accept`` returned; if None, autograd goes through its solve.

    Raises
    ------
    SolveError
        If the forward solve fails, and later, from ``backward()``, if the
        backward solve does.
    DoubleBackwardError
        Later, where a gradient of that gradient is asked for.
    """
    if problem.trajectories is not None and not backend.solves_batches:
        check_independent(problem)
        each = [
            solve(backend, problem.trajectory(number), adjoint, recordings).y
            for number in range(problem.trajectories)
        ]
        return Solution(torch.stack(each, dim=1))
    if adjoint is None:
        return backend.solve(problem, recordings)
    inputs = (problem.y0, problem.t, *adjoint.params)
    if not _wants_graph(inputs):
        # Under inference_mode none could be made.
        with torch.no_grad():
            return backend.solve(problem, recordings)
    task = _Task(backend, recordings, lambda: backend.solve_forward(problem, adjoint, recordings))
    outputs: tuple[Tensor, ...] = _AdjointSolve.apply(  # type: ignore[no-untyped-call]
        task, *inputs
    )
    return Solution(outputs[-1], outputs[0] if problem.event_fn is not None else None)


def interpolate(
    backend: Backend,
    problem: Problem,
    adjoint: Adjoint,
    solution: Solution,
    t: Tensor,
    recordings: Sequence[Recording],
) -> Tensor:
    """The states at other times ``t`` of a solve that ``backend`` keeps; they have a gradient.

    Parameters
    ----------
    solution : Solution
        Of ``backend.solve_dense(problem, adjoint, ...)``.
    t : Tensor
        Shape ``(T,)``, in the order in which the solve went; the first is its start.
    """
    inputs = (problem.y0, t, *adjoint.params)
    if not _wants_graph(inputs):
        return backend.interpolate(solution, t).y
    task = _Task(backend, recordings, lambda: backend.interpolate(solution, t))
    outputs: tuple[Tensor, ...] = _AdjointSolve.apply(  # type: ignore[no-untyped-call]
        task, *inputs
    )
    return outputs[-1]


def _wants_graph(inputs: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


class _Task(NamedTuple):
    """What an autograd function is to do; one object, since torch looks at each argument."""

    backend: Backend
    recordings: Sequence[Recording]
    solve: Callable[[], Solution]


class _AdjointSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, task: _Task, *inputs: Tensor) -> tuple[Tensor, ...]:
        solution = task.solve()
        ctx.backend = task.backend
        ctx.recordings = task.recordings
        ctx.solution = solution
        # Saved so that autograd notices a graph used twice or a tensor changed
        # in place between forward and backward, and says so in its own words.
        outputs = tuple([output.detach() for output in solution.outputs])
        ctx.save_for_backward(*inputs, *outputs)
        # Not the solution's own tensors: an output that its node refers to would be
        # a cycle, and keep the graph alive until the garbage collector comes.
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        gradients = ctx.backend.solve_backward(
            ctx.solution, cotangents, (*ctx.recordings, *open_recordings())
        )
        found = (gradients.y0, gradients.t, *gradients.params)
        if torch.is_grad_enabled():  # only under create_graph=True
            found = _refuse_further_gradients(found)
        return (None, *found)


def _refuse_further_gradients(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return gradients
    anchor = torch.zeros((), requires_grad=True)
    refused = iter(
        _RefuseGradient.apply(anchor, *present)  # type: ignore[no-untyped-call]
    )
    return tuple(None if gradient is None else next(refused) for gradient in gradients)


class _RefuseGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, _anchor: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
        # The anchor makes the outputs require a gradient, so that asking for one
        # arrives here instead of being taken for zero.
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def backward(_ctx: FunctionCtx, *_cotangents: Tensor) -> tuple[Tensor | None, ...]:
        raise DoubleBackwardError(
            "this solve's gradient cannot be differentiated again (double backward). Use "
            "pysemi.odeint(..., backend='torch'), where autograd goes through the solver's "
            "steps, or leave create_graph out if the second gradient was not meant"
        )
