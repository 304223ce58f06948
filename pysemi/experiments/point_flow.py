"""Continuous normalising flows of points in the plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pysemi.experiments.data.points import PointSet
from pysemi.experiments.image_flow import fixed_noise
from pysemi.experiments.preset import Preset
from pysemi.experiments.task import Batch, Exhibits, Task
from pysemi.models.continuous_flow import ContinuousFlow
from pysemi.models.flow_fields import PointField

__all__ = ["PointDensity", "PointFlowPreset"]

VIEW = 4.0
"""Pictures show [-4, 4] x [-4, 4]."""
CELLS = 100
"""Of the grid on which the density is shown, along each axis."""
SHOWN = 2000
"""Samples that a run keeps for its picture."""
FOLLOWED = 300
"""Of the samples, how many are shown on their way."""
MOMENTS = 21
"""Of the way, evenly spread over t in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class PointFlowPreset(Preset):
    """Settings of a flow of points.

    Attributes
    ----------
    distribution : str
        In :data:`pysemi.experiments.data.points.DISTRIBUTIONS`.
    train_points, test_points : int
        To be drawn from it.
    hidden, depth
        Of :class:`pysemi.models.flow_fields.PointField`.
    """

    distribution: str
    train_points: int
    test_points: int
    hidden: int
    depth: int


class PointDensity(Task):
    """Learn a density in the plane by maximum likelihood, with the exact trace.

    Parameters
    ----------
    points : PointSet
    preset : PointFlowPreset
    """

    metric_name: ClassVar[str] = "nats"

    def __init__(self, points: PointSet, preset: PointFlowPreset) -> None:
        self._points = points
        self._preset = preset
        self.split = points.split
        self.batches_per_epoch = -(-len(points.train) // preset.batch_size)

    def model(self, solver: Mapping[str, Any]) -> ContinuousFlow:
        """Build FFJORD's flow of points."""
        field = PointField(2, self._preset.hidden, depth=self._preset.depth)
        return ContinuousFlow(field, (2,), solver=solver)

    def batches(self, order: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches of points."""
        shuffled = torch.randperm(len(self._points.train), generator=order)
        for rows in shuffled.split(self._preset.batch_size):
            yield (self._points.train[rows],)

    def test_batches(self) -> Iterator[Batch]:
        """Batches of the test set's points, as large as those of training."""
        for points in self._points.test.split(self._preset.batch_size):
            yield (points,)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean negative log-density."""
        (points,) = batch
        log_prob: Tensor = model(points)
        return -log_prob.mean()

    def evaluate(self, model: nn.Module) -> float:
        """Mean negative log-density of the test set, in nats."""
        log_prob = torch.cat([model(points) for (points,) in self.test_batches()])
        return -float(log_prob.mean())

    def exhibits(self, model: nn.Module) -> Exhibits:
        """The density on a grid, samples, and the way of some of them from the base."""
        if not isinstance(model, ContinuousFlow):
            raise TypeError(
                f"a ContinuousFlow, no {type(model).__name__}, is what this task trains"
            )
        # At the middle of the cells, row by row from below, as pictures have them.
        middle = VIEW * ((2 * torch.arange(CELLS) + 1) / CELLS - 1)
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        with torch.no_grad(), fixed_noise():
            log_density = model(torch.stack([x, y], dim=-1).view(-1, 2)).view(CELLS, CELLS)
            base = torch.randn(SHOWN, 2)
            times = torch.linspace(0, 1, MOMENTS)
            path = model.path(base[:FOLLOWED], times.tolist())
            samples, _ = model.from_base(base)
        return {
            "points": self._points.test[:SHOWN].numpy(),
            "samples": samples.numpy(),
            "log_density": log_density.numpy(),
            "view": torch.tensor(VIEW).numpy(),
            "times": times.numpy(),
            "path": path.numpy(),
        }
