"""What the Julia backend does not solve, said before anything starts."""

from __future__ import annotations

import torch

from pysemi.backends.julia.bridge import BRIDGES
from pysemi.backends.julia.settings import check_settings
from pysemi.errors import ArgumentError, describe
from pysemi.problem import Adjoint, Problem

__all__ = ["check_adjoint", "check_problem"]


def check_problem(problem: Problem, bridge: str) -> None:
    """Refuse a problem that Julia cannot be given.

    Raises
    ------
    ArgumentError
    """
    if bridge not in BRIDGES:
        raise ArgumentError(
            "bridge", f"{describe(bridge)} is not one of {', '.join(map(repr, BRIDGES))}"
        )
    if problem.y0.dtype not in (torch.float32, torch.float64):
        raise ArgumentError("y0", f"has dtype {problem.y0.dtype}; Julia solves float32 and float64")
    if problem.y0.device.type != "cpu":
        raise ArgumentError("y0", f"is on {problem.y0.device}; Julia solves on the CPU")
    for event in ("step", "accept_step", "reject_step"):
        if hasattr(problem.func, f"callback_{event}"):
            raise ArgumentError(
                "func",
                f"has a callback_{event}, which only torchdiffeq calls; remove it "
                "(pysemi.record reports the steps) or use backend='torch'",
            )
    check_settings("options", problem.settings)
    uses_torchdiffeqs_steps = problem.settings.options.get("controller", "default") != "default"
    if problem.event_fn is not None and uses_torchdiffeqs_steps:
        raise ArgumentError(
            "options['controller']", "is torchdiffeq's own; leave it out in a solve with event_fn"
        )


def check_adjoint(problem: Problem, adjoint: Adjoint) -> None:
    """Refuse an adjoint that does not go with the problem.

    Raises
    ------
    ArgumentError
    """
    check_settings("adjoint_options", adjoint.settings)
    if problem.event_fn is not None and adjoint.name not in ("backsolve", "discrete"):
        raise ArgumentError(
            "adjoint", f"{adjoint.name!r} does not go with event_fn; use 'backsolve' or 'discrete'"
        )
    if adjoint.name == "discrete":
        if adjoint.settings.method != problem.settings.method:
            raise ArgumentError(
                "adjoint_method",
                f"{describe(adjoint.settings.method)}: the discrete adjoint goes back over the "
                "forward solve's own steps; leave it out",
            )
    elif (
        adjoint.name != "backsolve" and adjoint.settings.options.get("controller") == "torchdiffeq"
    ):
        raise ArgumentError(
            "adjoint_options['controller']",
            "'torchdiffeq' is for adjoint='backsolve', which torchdiffeq has, not "
            f"{adjoint.name!r}",
        )
    if adjoint.name == "quadrature" and isinstance(adjoint.settings.rtol, tuple):
        raise ArgumentError(
            "adjoint_rtol",
            "the quadrature of dL/dθ has one tolerance; give a number, or use adjoint='gauss'",
        )
