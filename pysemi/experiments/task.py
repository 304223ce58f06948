"""What an experiment owes the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Batch", "Exhibits", "Task"]

Batch: TypeAlias = tuple[Tensor, ...]
"""What one call of :meth:`Task.loss` takes."""

Exhibits: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name that a run's pictures are drawn from."""


class Task(ABC):
    """An experiment at one preset, with its data loaded.

    Attributes
    ----------
    metric_name : str
        What :meth:`evaluate` returns, by its name in
        :data:`pysemi.experiments.metric.METRICS`.
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
    def test_batches(self) -> Iterator[Batch]:
        """Go through the test set once, always in the same order."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss to minimise, shape ``()``."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> float:
        """The metric on the test set. Called with gradients disabled."""

    def exhibits(self, model: nn.Module) -> Exhibits:
        """What the trained model is to show in pictures; nothing, unless a task says more.

        Called once, with gradients enabled, after the last epoch.
        """
        del model
        return {}
