"""Continuous normalising flows of images: the form of the paper's section 3.2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pysemi.experiments.data.image_set import ImageSet
from pysemi.experiments.preset import Preset
from pysemi.experiments.task import Batch, Exhibits, Task
from pysemi.models.image_flow import ImageFlow, quantise

__all__ = ["ImageDensity", "ImageFlowPreset", "fixed_noise"]

SHOWN = 40
"""Images, and as many samples, that a run keeps for its picture."""


@dataclass(frozen=True, kw_only=True)
class ImageFlowPreset(Preset):
    """Settings of flows of images.

    Attributes
    ----------
    hidden, flows, resolutions, squeezes_first, alpha, trace
        Of :class:`pysemi.models.image_flow.ImageFlow`.
    mirror : float
        The probability that an image to train on is mirrored, left to right.
    """

    hidden: int
    flows: int = 4
    resolutions: int = 3
    squeezes_first: int = 0
    alpha: float = 1e-6
    trace: str = "gaussian"
    mirror: float = 0.0


@contextmanager
def fixed_noise() -> Iterator[None]:
    """Draw the same random numbers each time, and leave those of the training as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class ImageDensity(Task):
    """Learn the density of images by maximum likelihood.

    Every batch of training has noise of its own, for dequantisation and for the
    trace. The test set has the same noise after every epoch and in every run.

    Parameters
    ----------
    images : ImageSet
        As the data set has them; limited here.
    preset : ImageFlowPreset
    """

    metric_name: ClassVar[str] = "bits/dim"

    def __init__(self, images: ImageSet, preset: ImageFlowPreset) -> None:
        self._images = images.limited(preset.train_limit, preset.test_limit)
        self._preset = preset
        self.split = images.split
        self.batches_per_epoch = -(-len(self._images.train) // preset.batch_size)

    def model(self, solver: Mapping[str, Any]) -> ImageFlow:
        """Build flows of the paper's form."""
        preset = self._preset
        return ImageFlow(
            self._images.train.shape[1:],
            self._images.levels,
            hidden=preset.hidden,
            flows=preset.flows,
            resolutions=preset.resolutions,
            squeezes_first=preset.squeezes_first,
            alpha=preset.alpha,
            trace=preset.trace,
            solver=solver,
        )

    def batches(self, order: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches of images, some of them mirrored."""
        train = self._images.train
        shuffled = torch.randperm(len(train), generator=order)
        for rows in shuffled.split(self._preset.batch_size):
            images = train[rows]
            mirrored = torch.rand(len(rows), generator=order) < self._preset.mirror
            yield (torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images),)

    def test_batches(self) -> Iterator[Batch]:
        """Batches of the test set's images, as large as those of training."""
        for images in self._images.test.split(self._preset.batch_size):
            yield (images,)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean bits/dim of dequantised images, with an estimated trace."""
        (images,) = batch
        bits: Tensor = model(images)
        return bits.mean()

    def evaluate(self, model: nn.Module) -> float:
        """Mean bits/dim of the test set."""
        with fixed_noise():
            bits = torch.cat([model(images) for (images,) in self.test_batches()])
        return float(bits.mean())

    def exhibits(self, model: nn.Module) -> Exhibits:
        """Samples of the model and images of the test set, with whole-numbered pixels."""
        if not isinstance(model, ImageFlow):
            raise TypeError(f"an ImageFlow, no {type(model).__name__}, is what this task trains")
        with torch.no_grad(), fixed_noise():
            samples = quantise(model.sample(SHOWN), self._images.levels)
        shown = self._images.limited(None, SHOWN)
        return {
            "samples": samples.to(torch.uint8).numpy(),
            "images": shown.test.numpy(),
            "levels": torch.tensor(shown.levels).numpy(),
        }
