"""The solvers by name: torchdiffeq's, and what kind of solver each is.

The Julia backend's names belong here too, so that one table says which method
runs where.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["DEFAULT_METHOD", "TORCHDIFFEQ_METHODS", "MethodKind"]


class MethodKind(Enum):
    """How a method chooses its steps, which decides what it can report."""

    ADAPTIVE = "adaptive"
    """Chooses step sizes by an error estimate; reports each attempt and its fate."""
    FIXED = "fixed"
    """Steps on a given grid; every step counts as accepted."""
    OPAQUE = "opaque"
    """Hands the whole solve to another library that reports no steps."""


TORCHDIFFEQ_METHODS: dict[str, MethodKind] = {
    "dopri8": MethodKind.ADAPTIVE,
    "dopri5": MethodKind.ADAPTIVE,
    "bosh3": MethodKind.ADAPTIVE,
    "fehlberg2": MethodKind.ADAPTIVE,
    "adaptive_heun": MethodKind.ADAPTIVE,
    "euler": MethodKind.FIXED,
    "midpoint": MethodKind.FIXED,
    "heun2": MethodKind.FIXED,
    "heun3": MethodKind.FIXED,
    "rk4": MethodKind.FIXED,
    "explicit_adams": MethodKind.FIXED,
    "implicit_adams": MethodKind.FIXED,
    "fixed_adams": MethodKind.FIXED,
    "scipy_solver": MethodKind.OPAQUE,
}
"""torchdiffeq 0.2.5's methods (``torchdiffeq._impl.odeint.SOLVERS``)."""

DEFAULT_METHOD = "dopri5"
"""Dormand-Prince 5(4), torchdiffeq's default and the solver of every experiment in the paper."""
