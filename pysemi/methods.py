"""The solvers by name, and what kind of solver each is.

torchdiffeq's names come from torchdiffeq itself, so that a newer release's
methods are there at once. The Julia backend's names belong here too.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["DEFAULT_METHOD", "MethodKind", "torchdiffeq_kind", "torchdiffeq_methods"]

DEFAULT_METHOD = "dopri5"
"""Dormand-Prince 5(4), torchdiffeq's default and the solver of every experiment in the paper."""


class MethodKind(Enum):
    """How a method chooses its steps, which decides what it can report."""

    ADAPTIVE = "adaptive"
    """Chooses step sizes by an error estimate; reports each attempt and its fate."""
    FIXED = "fixed"
    """Steps on a given grid; every step counts as accepted."""
    OPAQUE = "opaque"
    """Hands the whole solve to another library that reports no steps."""


def torchdiffeq_methods() -> tuple[str, ...]:
    """Names of the installed torchdiffeq's methods."""
    # Private, but the only place where torchdiffeq says what it has.
    from torchdiffeq._impl.odeint import SOLVERS

    return tuple(SOLVERS)


def torchdiffeq_kind(method: str) -> MethodKind:
    """The kind of one of :func:`torchdiffeq_methods`, by the callbacks it says it calls."""
    from torchdiffeq._impl.odeint import SOLVERS

    called = SOLVERS[method].valid_callbacks()
    if "callback_accept_step" in called:
        return MethodKind.ADAPTIVE
    return MethodKind.FIXED if "callback_step" in called else MethodKind.OPAQUE
