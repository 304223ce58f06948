"""Who is told how runs get on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pysemi.experiments.run_directory import EpochRecord, RunConfig

__all__ = ["Progress"]


class Progress(Protocol):
    """Is told how runs get on, several of which may be under way at once."""

    def run_started(self, config: RunConfig, metric_name: str, batches: int, done: int) -> None:
        """A run of so many batches begins, of which some were done earlier."""

    def batch_ended(self, config: RunConfig, loss: float, backward_nfe: int) -> None:
        """One more batch was trained on; the NFE is this batch's."""

    def epoch_ended(self, config: RunConfig, epoch: EpochRecord) -> None:
        """One more epoch was trained, evaluated and saved."""

    def run_ended(self, config: RunConfig, result: Mapping[str, Any]) -> None:
        """The run is complete, or was found to be."""
