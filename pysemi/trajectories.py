"""What ``batch="independent"`` takes for granted of a vector field, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pysemi.errors import ArgumentError
from pysemi.problem import Problem

__all__ = ["check_independent"]


def check_independent(problem: Problem) -> None:
    """Refuse a vector field that does not treat a trajectory alone as it does among the others.

    Evaluated at the start on all trajectories, and on the first and the last alone. Where it
    cannot be evaluated on all, or draws random numbers, there is nothing to compare.

    Raises
    ------
    ArgumentError
        If it mixes trajectories, or cannot be evaluated on one.
    """
    assert problem.trajectories is not None
    one, last = problem.one, problem.trajectories - 1
    t = one.t[0].detach().to(one.y0.dtype)
    with torch.no_grad():
        alone = {number: _alone(problem, t, number) for number in (0, last)}
        together = _together(problem, t)
        if together is None:
            return
        repeated = _together(problem, t)
    for number, expected in alone.items():
        found = together[number]
        if repeated is None or not torch.equal(found, repeated[number]):
            return
        if not _agree(found, expected):
            raise ArgumentError(
                "batch",
                f"'independent', but func mixes the trajectories: dy/dt of trajectory {number} "
                "is another where it is evaluated with the others; use batch='joint'",
            )


def _alone(problem: Problem, t: Tensor, number: int) -> Tensor:
    layout = problem.layout
    y = layout.unflatten(problem.y0[number].detach())
    try:
        return _spread(problem.func(t, y), layout.shapes, layout.is_tuple)[0]
    except Exception as error:
        raise ArgumentError(
            "func",
            f"cannot be evaluated on one trajectory, whose first dimension is 1 ({error}). A "
            "tensor with an entry for each trajectory belongs into the state, as a component "
            "whose derivative is 0",
        ) from error


def _together(problem: Problem, t: Tensor) -> Tensor | None:
    """dy/dt of all trajectories, a row for each; None if func does not take them together."""
    assert problem.trajectories is not None
    layout = problem.layout.with_first_dimension(problem.trajectories)
    y = problem.y0.detach()
    whole = problem.layout.components(y)
    parts = tuple(part.squeeze(1) for part in whole)
    try:
        dy = problem.func(t, parts if layout.is_tuple else parts[0])
        return _spread(dy, layout.shapes, layout.is_tuple)
    except Exception:
        return None


def _spread(dy: Any, shapes: tuple[torch.Size, ...], is_tuple: bool) -> Tensor:
    """A row for each entry of the first dimension."""
    parts = zip(dy if is_tuple else (dy,), shapes, strict=True)
    return torch.cat([part.expand(shape).reshape(shape[0], -1) for part, shape in parts], dim=1)


def _agree(x: Tensor, y: Tensor) -> bool:
    """Up to rounding; what is not finite is left to the solve."""
    if not bool((torch.isfinite(x) & torch.isfinite(y)).all()):
        return True
    scale = max(float(x.abs().max()), float(y.abs().max()), 1e-6)
    tolerance: float = torch.finfo(x.dtype).eps ** 0.5
    return float((x - y).abs().max()) <= tolerance * scale
