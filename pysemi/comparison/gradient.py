"""A loss and its gradient, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pysemi.stats import SolveStats

__all__ = ["Gradient", "Measurement"]


@dataclass(frozen=True)
class Gradient:
    """A loss and its gradient, in float64.

    Attributes
    ----------
    loss : float
    y0 : Tensor
        All components in one vector.
    params : dict of str to Tensor
        Each parameter's, flat, by name.
    t : Tensor or None
        Shape ``(T,)``; None if it was not asked for.
    """

    loss: float
    y0: Tensor
    params: dict[str, Tensor]
    t: Tensor | None

    @property
    def theta(self) -> Tensor:
        """All parameters' in one vector."""
        return torch.cat(list(self.params.values()))


@dataclass(frozen=True)
class Measurement:
    """What one solve of a model, forward and backward, gave and cost.

    Attributes
    ----------
    gradient : Gradient
    forward, backward : SolveStats
    seconds : float
        Wall time, with all overhead.
    """

    gradient: Gradient
    forward: SolveStats
    backward: SolveStats
    seconds: float
