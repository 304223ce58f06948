"""The solvers by name, and what kind of solver each is.

torchdiffeq's names come from torchdiffeq itself, so that a newer release's
methods are there at once. The Julia backend's names belong here too.
"""

from __future__ import annotations

from enum import Enum

from pysemi.errors import ArgumentError, describe

__all__ = [
    "DEFAULT_METHOD",
    "EXPLICIT_ALGORITHMS",
    "JULIA_ALGORITHMS",
    "MethodKind",
    "julia_algorithm",
    "torchdiffeq_kind",
    "torchdiffeq_methods",
]

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


JULIA_ALGORITHMS = {
    "dopri5": "DP5",
    "bosh3": "BS3",
    "dopri8": "DP8",
    "adaptive_heun": "Heun",
    "tsit5": "Tsit5",
}
"""torchdiffeq's name -> OrdinaryDiffEq's, of the same method."""


EXPLICIT_ALGORITHMS = frozenset(
    (*JULIA_ALGORITHMS.values(), "BS5", "Vern6", "Vern7", "Vern8", "Vern9", "RK4", "Ralston")
)
"""Algorithms of OrdinaryDiffEq that are known to need no Jacobian."""


def julia_algorithm(method: object) -> str:
    """OrdinaryDiffEq's name of a method.

    Parameters
    ----------
    method : str
        A name of torchdiffeq's, or OrdinaryDiffEq's own ("Tsit5", "Vern7"), which is
        looked up when the solve starts.

    Raises
    ------
    ArgumentError
        If it is a method of torchdiffeq that OrdinaryDiffEq has not, or no name.
    """
    if not isinstance(method, str):
        raise ArgumentError("method", f"{describe(method)} is no name of a method")
    if method in JULIA_ALGORITHMS:
        return JULIA_ALGORITHMS[method]
    if method in torchdiffeq_methods() or not method.isidentifier():
        names = ", ".join(map(repr, JULIA_ALGORITHMS))
        raise ArgumentError(
            "method",
            f"{method!r} is not available with backend='julia'; give one of {names}, or a name "
            "of OrdinaryDiffEq's such as 'Tsit5' or 'Vern7'",
        )
    return method
