"""From what Julia's adjoints leave behind to the gradients that autograd asks for.

Of independent trajectories, Julia's arrays have an entry for each in their first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysemi.backends.base import Gradients, Solution
from pysemi.problem import Problem

__all__ = ["by_time", "by_trajectory", "gradients", "plain", "start_in_one"]


def plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` with its values in memory one after the other, and as they are.

    torch may leave a change of sign to whoever reads the memory.
    """
    if x.dtype is not dtype or x.is_neg() or not x.is_contiguous():
        return x.detach().to(dtype).resolve_neg().contiguous()
    return x


def by_time(problem: Problem, y: Tensor) -> Tensor:
    """From ``(B, T, *flat)`` to ``(T, B, *flat)``; for one state there is no ``B``."""
    return y if problem.trajectories is None else y.transpose(0, 1)


def by_trajectory(problem: Problem, y: Tensor) -> Tensor:
    """What :func:`by_time` made, the other way round."""
    return y if problem.trajectories is None else y.transpose(0, 1)


def start_in_one(times: Tensor, cotangents: Tensor) -> Tensor:
    """Cotangents ``(T, *flat)``; those of the first time, where it comes again, in one."""
    at_start = times == times[0]
    if int(at_start.sum()) == 1:
        return cotangents
    joined = cotangents.clone()
    joined[at_start] = 0
    joined[0] = cotangents[at_start].sum(dim=0)
    return joined


def gradients(
    problem: Problem,
    solution: Solution,
    cotangent: Tensor,
    y_bar: Tensor,
    params_bar: Sequence[Tensor],
) -> Gradients:
    """What autograd asks for; dL/dt is worked out here.

    Parameters
    ----------
    cotangent : Tensor
        Of the solution, shape ``(T, *flat)``, or ``(B, T, *flat)``.
    y_bar : Tensor
        dL/dy0, in the shape of ``problem.y0``.
    params_bar : sequence of Tensor
        dL/dθ, one for each parameter.
    """
    t_bar = None
    if problem.t.requires_grad:
        t_bar = _time_gradients(problem, solution, cotangent, y_bar)
    return Gradients(y_bar if problem.y0.requires_grad else None, t_bar, tuple(params_bar))


def _time_gradients(
    problem: Problem, solution: Solution, cotangent: Tensor, y_bar: Tensor
) -> Tensor:
    """dL/dt, added up over the trajectories that share their times."""
    if problem.trajectories is None:
        times = problem.t.detach()
        if solution.event_t is not None:
            times = torch.stack([times[0], solution.event_t])
        return _time_gradient(problem, times, solution.y, cotangent, y_bar)
    states = by_trajectory(problem, solution.y)
    each = []
    for number in range(problem.trajectories):
        one = problem.trajectory(number)
        each.append(
            _time_gradient(one, one.t.detach(), states[number], cotangent[number], y_bar[number])
        )
    stacked = torch.stack(each)
    return stacked.sum(0) if problem.t.ndim == 1 else stacked


def _time_gradient(
    problem: Problem, times: Tensor, y: Tensor, cotangent: Tensor, y_bar: Tensor
) -> Tensor:
    r"""Each :math:`dL/dt_i = \lambda_i^T f(t_i, y_i)`; at :math:`t_0`, less all that follows."""
    slopes = [
        problem.layout.flatten(
            problem.func(time.to(y.dtype), problem.layout.unflatten(state))
        ).detach()
        for time, state in zip(times, y, strict=True)
    ]
    t_bar = torch.stack([(c * f).sum() for c, f in zip(cotangent, slopes, strict=True)])
    t_bar[0] = -((y_bar - cotangent[0]) * slopes[0]).sum()
    if problem.event_fn is not None:
        t_bar[1] = 0  # the second entry of t takes no part in such a solve
    return t_bar.to(problem.t)
