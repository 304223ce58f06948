"""Joins a backend's forward and backward solves into one autograd function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pysemi.backends.base import Backend, Solution
from pysemi.errors import DoubleBackwardError
from pysemi.problem import Adjoint, Problem
from pysemi.stats import Recording, open_recordings

__all__ = ["solve_with_adjoint"]


def solve_with_adjoint(
    backend: Backend, problem: Problem, adjoint: Adjoint, recordings: Sequence[Recording]
) -> Solution:
    """Solve forward; the outputs' gradient is found by solving the adjoint backward.

    Raises
    ------
    SolveError
        If the forward solve fails, and later, from ``backward()``, if the
        backward solve does.
    DoubleBackwardError
        Later, where a gradient of that gradient is asked for.
    """
    inputs = (problem.y0, problem.t, *adjoint.params)
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        # No graph will be wanted; under inference_mode none could be made.
        with torch.no_grad():
            return backend.solve(problem, recordings)
    outputs: tuple[Tensor, ...] = _AdjointSolve.apply(  # type: ignore[no-untyped-call]
        backend, problem, adjoint, recordings, problem.y0, problem.t, *adjoint.params
    )
    return Solution(outputs[-1], outputs[0] if problem.event_fn is not None else None)


class _AdjointSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        backend: Backend,
        problem: Problem,
        adjoint: Adjoint,
        recordings: Sequence[Recording],
        y0: Tensor,
        t: Tensor,
        *params: Tensor,
    ) -> tuple[Tensor, ...]:
        solution = backend.solve_forward(problem, adjoint, recordings)
        ctx.backend = backend
        ctx.recordings = recordings
        ctx.solution = solution
        # Saved so that autograd notices a graph used twice or a tensor changed
        # in place between forward and backward, and says so in its own words.
        outputs = tuple(output.detach() for output in solution.outputs)
        ctx.save_for_backward(y0, t, *params, *outputs)
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
        return (None, None, None, None, *found)


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
