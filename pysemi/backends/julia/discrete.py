"""Which tensors get the gradient of a discrete solution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pysemi.captured import ancestors, uncovered_leaves
from pysemi.compiler.inventory import take_inventory
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import ArgumentError
from pysemi.problem import Adjoint, Problem

__all__ = ["discrete_adjoint"]

CHECKPOINT_BYTES = 2**30
"""Of what a solve keeps for its gradient, unless ``options["checkpoints"]`` says how much:
half for what f computed on the way, the rest for states. Beyond it, steps are computed once
more. Torch keeps all of it, without a limit."""


def checkpoints(problem: Problem) -> int:
    """How many states a solve may keep for its gradient."""
    asked = problem.settings.options.get("checkpoints")
    if asked is not None:
        return int(asked)  # for each
    nbytes = problem.y0.numel() * problem.y0.element_size()  # of all trajectories
    return max(CHECKPOINT_BYTES // nbytes, 16)


def discrete_adjoint(problem: Problem) -> Adjoint | None:
    """The adjoint by which a solve in Julia is differentiated; None if no gradient is wanted.

    Torch differentiates through a solver with respect to whatever the vector field uses, so
    the tensors that get a gradient are all those found in it that require one.

    Raises
    ------
    ArgumentError
        If they cannot be kept apart.
    """
    if not torch.is_grad_enabled():
        return None
    held = _tensors_in(problem)
    if not (problem.y0.requires_grad or problem.t.requires_grad or held):
        return None
    if not all(x.is_leaf for x in held):
        held = _direct(problem, held)
    return Adjoint("discrete", problem.settings, tuple(held))


def _tensors_in(problem: Problem) -> list[Tensor]:
    func = problem.func
    try:
        found: Sequence[Tensor] = take_inventory(func).tensors
    except Untranslatable:  # too much to look through: its parameters are what is left to ask
        found = tuple(func.parameters()) if isinstance(func, nn.Module) else ()
    return [x for x in found if x.requires_grad]


def _direct(problem: Problem, held: Sequence[Tensor]) -> list[Tensor]:
    """Those of ``held`` that f reads itself, not by way of others; each with its own gradient.

    An encoder's output that the vector field reads gets a gradient, and passes it on to the
    encoder's weights: the field's own gradient must not count these again.
    """
    results = [x for x in held if not x.is_leaf]
    y = problem.y0.detach().requires_grad_()
    with torch.enable_grad():
        dy = problem.layout.flatten(
            problem.func(problem.t[0].detach().to(y.dtype), problem.layout.unflatten(y))
        )
    leaves = uncovered_leaves(dy, (y, *results)) if dy.requires_grad else []
    known = {id(x) for x in (*leaves, *results)}
    for result in results:
        if any(id(x) in known for x in ancestors(result, (*leaves, *results))):
            raise ArgumentError(
                "func",
                f"reads a tensor of shape {tuple(result.shape)} and also what that was computed "
                "from, whose gradients Julia cannot tell apart; use backend='torch', or let func "
                "compute the tensor itself",
            )
    return [*leaves, *results]
