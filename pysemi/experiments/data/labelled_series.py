"""Labelled time series, split into training and test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["LabelledSeries", "hold_last_value", "spread"]


@dataclass(frozen=True)
class LabelledSeries:
    """A classification problem on time series of one length.

    Attributes
    ----------
    train_x, test_x : Tensor
        Shape ``(series, length, channels)``, float32.
    train_y, test_y : Tensor
        Class of each series, int64.
    classes : int
    split : str
        How training and test set were separated, in words.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    split: str

    @property
    def times(self) -> Tensor:
        """Observation times 0, 1, ..., as in the paper's code; shape ``(length,)``."""
        return torch.arange(self.train_x.shape[1], dtype=torch.float32)

    def normalised(self) -> LabelledSeries:
        """Zero mean and unit variance per channel, by the training set's statistics."""
        mean = self.train_x.mean(dim=(0, 1))
        scale = self.train_x.std(dim=(0, 1)) + 1e-5  # a constant channel stays finite
        return replace(
            self, train_x=(self.train_x - mean) / scale, test_x=(self.test_x - mean) / scale
        )

    def with_time(self) -> LabelledSeries:
        """Put the observation time in front of the channels, as a CDE's control needs."""
        return replace(
            self,
            train_x=_with_time(self.train_x, self.times),
            test_x=_with_time(self.test_x, self.times),
        )

    def limited(self, train: int | None, test: int | None) -> LabelledSeries:
        """At most so many series of each set, spread evenly over it."""
        return replace(
            self,
            train_x=spread(self.train_x, train),
            train_y=spread(self.train_y, train),
            test_x=spread(self.test_x, test),
            test_y=spread(self.test_y, test),
        )


def hold_last_value(series: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Stack series of different lengths, each held at its last value to the end.

    A held control does not move, so a CDE's state changes with time only.

    Parameters
    ----------
    series : sequence of Tensor
        Each of shape ``(own length, channels)``.
    length : int, optional
        The longest series' length if left out.

    Returns
    -------
    Tensor
        Shape ``(len(series), length, channels)``.
    """
    longest = max(len(one) for one in series) if length is None else length
    return torch.stack([one[torch.arange(longest).clamp(max=len(one) - 1)] for one in series])


def spread(rows: Tensor, limit: int | None) -> Tensor:
    """At most ``limit`` of the rows, evenly from the first to the last; all of them for None."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit).round().long()]


def _with_time(x: Tensor, times: Tensor) -> Tensor:
    column = times.to(x).view(1, -1, 1).expand(len(x), -1, 1)
    return torch.cat([column, x], dim=-1)
