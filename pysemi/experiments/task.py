"""What an experiment owes the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Batch", "Task"]

Batch: TypeAlias = tuple[Tensor, ...]
"""What one call of :meth:`Task.loss` takes."""


class Task(ABC):
    """An experiment at one preset, with its data loaded.

    Attributes
    ----------
    metric_name : str
        What :meth:`evaluate` returns, as tables name it.
    batches_per_epoch : int
    split : str
        How training and test set were separated, in words.
    """

    metric_name: ClassVar[str]
    batches_per_epoch: int
    split: str

    @abstractmethod
    def model(self, solver: Mapping[str, Any]) -> nn.Module:
        """Build a fresh model, by torch's global random state.

        Parameters
        ----------
        solver : mapping
            Keyword arguments for :func:`pysemi.odeint_adjoint`.
        """

    @abstractmethod
    def batches(self, order: torch.Generator) -> Iterator[Batch]:
        """Go through the training set once, shuffled by ``order`` alone."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss to minimise, shape ``()``; one forward solve."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> float:
        """The metric on the test set. Called with gradients disabled."""
