"""Neural differential equations in PyTorch, solved by Julia or by torchdiffeq.

>>> from pysemi import odeint_adjoint  # instead of torchdiffeq's

The names below are the whole public interface; modules with other names may
move. Importing pysemi starts nothing and looks for nothing.
"""

from pysemi import errors
from pysemi.api import odeint, odeint_adjoint, odeint_event
from pysemi.norms import StateNorm
from pysemi.stats import Recording, SolveStats, record

__all__ = [
    "Recording",
    "SolveStats",
    "StateNorm",
    "errors",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "record",
]

__version__ = "0.1.0"
