"""A model whose output is the solution itself, at the times of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pysemi.api import odeint_adjoint

__all__ = ["Predictor"]


class Predictor(nn.Module):
    """The solution of a vector field at some times.

    Parameters
    ----------
    field : nn.Module
    times : Tensor
        Shape ``(points,)``.
    solver : mapping
        Keyword arguments of :func:`pysemi.odeint_adjoint`.
    """

    times: Tensor

    def __init__(self, field: nn.Module, times: Tensor, solver: Mapping[str, Any]) -> None:
        super().__init__()
        self.field = field
        self.register_buffer("times", times)
        self.solver = dict(solver)

    def forward(self, y0: Tensor) -> Tensor:
        """Map initial states ``(batch, channels)`` to ``(batch, points, channels)``."""
        solution: Tensor = odeint_adjoint(self.field, y0, self.times, **self.solver)
        return solution.transpose(0, 1)
