"""Neural CDEs that classify time series: the form of the paper's section 3.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pysemi.experiments.data.labelled_series import LabelledSeries
from pysemi.experiments.preset import Preset
from pysemi.experiments.task import Batch, Task
from pysemi.models import NeuralCDE

__all__ = ["CDEPreset", "SeriesClassification"]

_CDEPreset = TypeVar("_CDEPreset", bound="CDEPreset")


@dataclass(frozen=True, kw_only=True)
class CDEPreset(Preset):
    """Settings of a neural CDE.

    Attributes
    ----------
    hidden_channels, width, depth, activation, interpolation
        Of :class:`pysemi.models.NeuralCDE`.
    """

    hidden_channels: int
    width: int
    depth: int
    activation: str = "relu"
    interpolation: str = "linear"

    def smooth(self: _CDEPreset) -> _CDEPreset:
        """The same with SiLU in place of ReLU, whose kinks limit the steps at tight tolerances."""
        return replace(
            self,
            about="SiLU in place of ReLU, at a hundredth of the loosest of quick's tolerances",
            activation="silu",
            rtol=self.rtol / 100,
            atol=self.atol / 100,
        )


class SeriesClassification(Task):
    """Classify series by a neural CDE.

    Parameters
    ----------
    series : LabelledSeries
        As the data set has them; normalised, limited and given a time channel here.
    preset : CDEPreset
    """

    metric_name: ClassVar[str] = "accuracy"

    def __init__(self, series: LabelledSeries, preset: CDEPreset) -> None:
        self._series = (
            series.normalised().limited(preset.train_limit, preset.test_limit).with_time()
        )
        self._preset = preset
        self._train_controls = self._coefficients(self._series.train_x)
        self._test_controls = self._coefficients(self._series.test_x)
        self.split = series.split
        self.batches_per_epoch = -(-len(self._series.train_x) // preset.batch_size)

    def model(self, solver: Mapping[str, Any]) -> NeuralCDE:
        """Build the paper's neural CDE."""
        preset, series = self._preset, self._series
        return NeuralCDE(
            series.times,
            series.train_x.shape[-1],
            preset.hidden_channels,
            series.classes,
            width=preset.width,
            depth=preset.depth,
            activation=preset.activation,
            interpolation=preset.interpolation,  # type: ignore[arg-type]  # checked there
            solver=solver,
        )

    def batches(self, order: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches of (control coefficients, labels)."""
        shuffled = torch.randperm(len(self._series.train_y), generator=order)
        for rows in shuffled.split(self._preset.batch_size):
            yield self._train_controls[rows], self._series.train_y[rows]

    def test_batches(self) -> Iterator[Batch]:
        """Batches of the test set, of the paper's size."""
        yield from zip(
            self._test_controls.split(_TEST_BATCH),
            self._series.test_y.split(_TEST_BATCH),
            strict=True,
        )

    def _coefficients(self, x: Tensor) -> Tensor:
        if self._preset.interpolation == "linear":
            # The values themselves (torchcde.linear_interpolation_coeffs), as none is missing.
            return x
        import torchcde

        coefficients: Tensor = torchcde.natural_cubic_coeffs(x, self._series.times)
        return coefficients

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        return cross_entropy(model(x), y)

    def evaluate(self, model: nn.Module) -> float:
        """Share of the test set whose class is right."""
        right = sum(int((model(x).argmax(dim=-1) == y).sum()) for x, y in self.test_batches())
        return right / len(self._series.test_y)


_TEST_BATCH = 1024
"""The paper's batch size; a solve's steps suit all of its batch."""
