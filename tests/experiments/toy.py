"""An experiment that takes a second: which way does a noisy line go?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pysemi.experiments.data.labelled_series import LabelledSeries
from pysemi.experiments.paper import SPEECH_COMMANDS
from pysemi.experiments.series_classification import CDEPreset, SeriesClassification
from pysemi.experiments.training_experiment import TrainingExperiment


@dataclass(frozen=True, kw_only=True)
class ToyPreset(CDEPreset):
    pause: float = 0.0


class ToyTask(SeriesClassification):
    def __init__(self, preset: ToyPreset) -> None:
        generator = torch.Generator().manual_seed(7)
        y = torch.arange(30) % 2
        slope = (2.0 * y - 1).view(-1, 1, 1)
        x = slope * torch.linspace(0, 1, 4).view(1, -1, 1)
        x = x + 0.3 * torch.randn(x.shape, generator=generator)
        super().__init__(LabelledSeries(x[:20], y[:20], x[20:], y[20:], 2, "by hand"), preset)
        self.pause = preset.pause

    def loss(self, model, batch):
        time.sleep(self.pause)
        x, y = batch
        # Draws a random number, as dropout would: its state must survive a restart.
        return cross_entropy(model(x + 0.01 * torch.randn(())), y)


TINY = ToyPreset(
    about="a second",
    epochs=3,
    batch_size=10,
    learning_rate=1e-2,
    rtol=1e-3,
    atol=1e-6,
    hidden_channels=3,
    width=4,
    depth=1,
)
TOY = TrainingExperiment(
    name="toy",
    title="Toy",
    about="Lines up and down.",
    presets={"tiny": TINY},
    load=ToyTask,
    paper=SPEECH_COMMANDS,
)
