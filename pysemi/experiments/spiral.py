"""A small neural ODE with few states and few parameters: the spiral of torchdiffeq's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pysemi.api import odeint
from pysemi.experiments.predictor import Predictor
from pysemi.experiments.preset import Preset
from pysemi.experiments.task import Batch, Task

__all__ = ["Spiral", "SpiralPreset"]

TRAIN, TEST = 512, 128
"""Trajectories in each set."""


@dataclass(frozen=True, kw_only=True)
class SpiralPreset(Preset):
    """Settings of the perceptron.

    Attributes
    ----------
    width : int
        Units in its one hidden layer.
    points : int
        Observations of a trajectory, over one unit of time.
    """

    width: int = 50
    points: int = 10


class _CubicSpiral(nn.Module):
    """dy/dt = A y³ for row vectors y."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        del t
        matrix: Tensor = self.matrix  # type: ignore[assignment]
        return y**3 @ matrix


class _Field(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        del t
        dy: Tensor = self.net(y**3)
        return dy


class Spiral(Task):
    """Predict trajectories of dy/dt = A y³ from their initial states.

    Parameters
    ----------
    preset : SpiralPreset
    """

    metric_name: ClassVar[str] = "L2 loss"
    split = f"{TRAIN} trajectories to train on, {TEST} to test on, from other initial states"

    def __init__(self, preset: SpiralPreset) -> None:
        self._preset = preset
        self._times = torch.linspace(0, 1, preset.points)
        generator = torch.Generator().manual_seed(0)
        angle = 2 * torch.pi * torch.rand(TRAIN + TEST, generator=generator)
        radius = 0.5 + torch.rand(TRAIN + TEST, 1, generator=generator)
        y0 = radius * torch.stack([angle.cos(), angle.sin()], dim=-1)
        truth = odeint(_CubicSpiral(), y0, self._times, rtol=1e-6, atol=1e-8, backend="torch")
        self._train, self._test = truth.transpose(0, 1).split([TRAIN, TEST])
        self.batches_per_epoch = -(-TRAIN // preset.batch_size)

    def model(self, solver: Mapping[str, Any]) -> nn.Module:
        """Build the perceptron."""
        return Predictor(_Field(self._preset.width), self._times, solver)

    def batches(self, order: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches of trajectories."""
        for rows in torch.randperm(TRAIN, generator=order).split(self._preset.batch_size):
            yield (self._train[rows],)

    def test_batches(self) -> Iterator[Batch]:
        """All trajectories of the test set at once."""
        yield (self._test,)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error."""
        (truth,) = batch
        return mse_loss(model(truth[:, 0]), truth)

    def evaluate(self, model: nn.Module) -> float:
        """Mean squared error over the test set."""
        return float(self.loss(model, (self._test,)))
