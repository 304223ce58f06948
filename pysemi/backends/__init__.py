"""Backends solve problems; this package holds them and chooses one.

What they share is the interface in ``base.py``. Nothing here knows the public
arguments (``pysemi.problem`` does) or autograd (``pysemi.adjoint`` does).
"""

from __future__ import annotations

import logging
import os
from functools import cache

from pysemi.backends.base import Backend, Gradients, Solution
from pysemi.errors import ArgumentError, BackendUnavailableError, ConfigurationError, describe
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.location import find_julia
from pysemi.warn import warn_caller

__all__ = [
    "BACKENDS",
    "BACKEND_VARIABLE",
    "VERIFICATIONS",
    "Backend",
    "Gradients",
    "Solution",
    "choose_backend",
    "explain_auto",
    "settle_backend",
]

BACKENDS = ("auto", "torch", "julia")
"""Values of the ``backend`` argument."""

VERIFICATIONS = ("first", "always", "never")
"""Values of the ``verify`` argument."""

BACKEND_VARIABLE = "PYSEMI_BACKEND"
"""Environment variable: what "auto" is to mean, "torch" or "julia"."""

_log = logging.getLogger("pysemi")


def choose_backend(
    name: str, problem: Problem, adjoint: Adjoint | None, bridge: str, verify: str = "first"
) -> tuple[Backend, Adjoint | None]:
    """Return the backend that the argument ``backend=name`` stands for, for one problem.

    "auto" is Julia if there is one and it can do what is asked, else torch; the reason
    for torch is logged once. With it comes the adjoint that gradients come from, None
    where autograd goes through the backend's own operations.

    Raises
    ------
    ArgumentError
        If there is no such backend, or it cannot solve the problem.
    BackendUnavailableError
        If it cannot run here.
    """
    if name not in BACKENDS:
        raise ArgumentError(
            "backend", f"{describe(name)} is not one of {', '.join(map(repr, BACKENDS))}"
        )
    if verify not in VERIFICATIONS:
        raise ArgumentError(
            "verify", f"{describe(verify)} is not one of {', '.join(map(repr, VERIFICATIONS))}"
        )
    if name == "auto":
        return _automatic(problem, adjoint, bridge, verify)
    chosen = _named(name, bridge, verify)
    return chosen, chosen.accept(problem, adjoint, bridge)


def explain_auto() -> tuple[str, str]:
    """Return the backend that ``backend="auto"`` means now, and the reason."""
    asked = os.environ.get(BACKEND_VARIABLE)
    if asked:
        if asked not in ("torch", "julia"):
            raise ArgumentError(
                BACKEND_VARIABLE, f"{describe(asked)} is neither 'torch' nor 'julia'"
            )
        return asked, f"{BACKEND_VARIABLE} says so"
    try:
        found = find_julia()
    except ConfigurationError as error:
        return "torch", f"Julia's configuration cannot be read: {error}"
    if found is None:
        return "torch", (
            "there is no Julia; `pysemi julia install` installs one, `pysemi julia use EXE "
            "--project DIR` names one that is there"
        )
    return "julia", f"{found.julia.executable} is {found.origin}"


def settle_backend(name: str) -> str:
    """Return "torch" or "julia" for the argument ``backend=name``, with Julia started.

    For a series of solves that are all to run on one backend.

    Raises
    ------
    ArgumentError
        If there is no such backend.
    BackendUnavailableError
        If Julia was asked for by name and cannot run here.
    """
    if name not in BACKENDS:
        raise ArgumentError(
            "backend", f"{describe(name)} is not one of {', '.join(map(repr, BACKENDS))}"
        )
    settled, reason = explain_auto() if name == "auto" else (name, "it was asked for")
    if settled == "julia":
        try:
            _named("julia").start()
        except BackendUnavailableError as error:
            if name != "auto":
                raise
            _warn_unusable(str(error))
            return "torch"
    _announce(settled, reason)
    return settled


def _named(name: str, bridge: str = "auto", verify: str = "first") -> Backend:
    if name == "torch":
        from pysemi.backends.torch import TorchBackend

        return TorchBackend()
    from pysemi.backends.julia import JuliaBackend

    return JuliaBackend(bridge, verify)


def _automatic(
    problem: Problem, adjoint: Adjoint | None, bridge: str, verify: str
) -> tuple[Backend, Adjoint | None]:
    torch = _named("torch")
    name, reason = explain_auto()
    if name == "torch":
        _announce("torch", reason)
        return torch, torch.accept(problem, adjoint, bridge)
    julia = _named("julia", bridge, verify)
    try:
        accepted = julia.accept(problem, adjoint, bridge)
    except ArgumentError as error:
        if bridge != "auto":
            raise  # a bridge was asked for, and so Julia
        _announce("torch", f"on Julia, {error}")
        return torch, torch.accept(problem, adjoint, bridge)
    try:
        julia.start()
    except BackendUnavailableError as error:
        _warn_unusable(str(error))
        return torch, torch.accept(problem, adjoint, bridge)
    _announce("julia", reason)
    return julia, accepted


@cache
def _announce(name: str, reason: str) -> None:
    _log.info("backend 'auto' is %r: %s", name, reason)


@cache
def _warn_unusable(reason: str) -> None:
    warn_caller(f"backend 'auto' is 'torch', since {reason}")
