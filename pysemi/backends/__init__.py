"""Backends solve problems; this package holds them and chooses one.

What they share is the interface in ``base.py``. Nothing here knows the public
arguments (``pysemi.problem`` does) or autograd (``pysemi.adjoint`` does).
"""

from __future__ import annotations

import logging
from functools import cache

from pysemi.backends.base import Backend, Gradients, Solution
from pysemi.errors import ArgumentError, BackendUnavailableError, describe

__all__ = ["BACKENDS", "Backend", "Gradients", "Solution", "choose_backend", "explain_auto"]

BACKENDS = ("auto", "torch", "julia")
"""Values of the ``backend`` argument."""

_log = logging.getLogger("pysemi")


def choose_backend(name: str) -> Backend:
    """Return the backend that the argument ``backend=name`` stands for.

    Raises
    ------
    ArgumentError
        If there is no such backend.
    BackendUnavailableError
        If it cannot run here.
    """
    if name == "auto":
        name = _announced_auto()
    if name == "torch":
        from pysemi.backends.torch import TorchBackend

        return TorchBackend()
    if name == "julia":
        raise BackendUnavailableError(_no_julia())
    raise ArgumentError(
        "backend", f"{describe(name)} is not one of {', '.join(map(repr, BACKENDS))}"
    )


def explain_auto() -> tuple[str, str]:
    """Return the backend that ``backend="auto"`` means now, and the reason."""
    return "torch", _no_julia()


def _no_julia() -> str:
    return (
        "this version of pysemi has no Julia solver yet (it records a Julia with `pysemi julia "
        "use EXE --project DIR`, and checks it with `pysemi doctor`); use backend='torch'"
    )


@cache
def _announced_auto() -> str:
    name, reason = explain_auto()
    _log.info("backend 'auto' is %r: %s", name, reason)
    return name
