"""What an experiment compares: the same model trained through other backward solves.

The model, its initial values, the data and their order are the same in each
arm; only the keyword arguments of :func:`pysemi.odeint_adjoint` differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NORMS", "Arm"]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes
    ----------
    name : str
        As on the command line, in a run's folder and above a table's column.
    solver : mapping
        Keyword arguments of :func:`pysemi.odeint_adjoint`.
    """

    name: str
    solver: Mapping[str, Any] = field(default_factory=dict)


NORMS: Mapping[str, Arm] = {
    name: Arm(name, {"adjoint_options": {"norm": name}}) for name in ("default", "seminorm", "rms")
}
"""The norms of the backward solve that a model can be trained with."""
