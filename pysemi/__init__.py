"""Neural differential equations in PyTorch, solved by Julia or by torchdiffeq.

>>> from pysemi import odeint_adjoint  # instead of torchdiffeq's

The names below are the whole public interface; modules with other names may
move. Importing pysemi starts nothing and looks for nothing: what a name needs
is imported when it is first asked for, so that the command line answers at once
and ``pysemi doctor`` can report a torch that does not import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pysemi import errors, models, norms
    from pysemi.api import odeint, odeint_adjoint, odeint_dense, odeint_event
    from pysemi.compiler import CompiledField, Explanation, compile, explain
    from pysemi.dense import DenseSolution
    from pysemi.norms import StateNorm
    from pysemi.stats import Recording, SolveStats, record

__all__ = [
    "CompiledField",
    "DenseSolution",
    "Explanation",
    "Recording",
    "SolveStats",
    "StateNorm",
    "compile",
    "errors",
    "explain",
    "models",
    "norms",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "record",
]

__version__ = "0.1.0"

_HOMES = {
    "CompiledField": "pysemi.compiler",
    "DenseSolution": "pysemi.dense",
    "Explanation": "pysemi.compiler",
    "Recording": "pysemi.stats",
    "SolveStats": "pysemi.stats",
    "StateNorm": "pysemi.norms",
    "compile": "pysemi.compiler",
    "explain": "pysemi.compiler",
    "odeint": "pysemi.api",
    "odeint_adjoint": "pysemi.api",
    "odeint_dense": "pysemi.api",
    "odeint_event": "pysemi.api",
    "record": "pysemi.stats",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in __all__:
        value = import_module(f"pysemi.{name}")
    else:
        raise AttributeError(f"module 'pysemi' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
