"""The experiment ``speech-commands``: tell the word; the paper's Table 1."""

from __future__ import annotations

from dataclasses import replace

from pysemi.experiments.data.speech_commands import load_speech_commands
from pysemi.experiments.experiment import register
from pysemi.experiments.paper import SPEECH_COMMANDS as PAPER_SPEECH_COMMANDS
from pysemi.experiments.series_classification import CDEPreset, SeriesClassification
from pysemi.experiments.tolerances import TABLE_1_TOLERANCES
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["SPEECH_COMMANDS", "load"]


def load(preset: CDEPreset) -> SeriesClassification:
    """Download the recordings, 2.4 GB, unless they are there."""
    return SeriesClassification(load_speech_commands(), preset)


PAPER = CDEPreset(
    # The paper's code leaves the number of epochs open; the axis of its Figure 1 ends at 200.
    about="the paper's settings: 30 runs of 200 epochs of 24 batches, which want a GPU",
    seeds=5,
    variants=TABLE_1_TOLERANCES,
    epochs=200,
    batch_size=1024,
    learning_rate=1.6e-3,
    weight_decay=0.01,
    rtol=1e-3,
    atol=1e-6,
    hidden_channels=90,
    width=40,
    depth=4,
)

SPEECH_COMMANDS = register(
    TrainingExperiment(
        name="speech-commands",
        title="Neural CDE on Speech Commands",
        about="Recognise ten spoken words by mel-frequency cepstral coefficients (Speech Commands "
        "v0.02, a download of 2.4 GB: 24,482 recordings to train on, 5,247 to test on).",
        presets={
            "short": replace(
                PAPER,
                about="the paper's model and tolerances on 1,024 of the recordings, two epochs",
                seeds=1,
                variants={},
                epochs=2,
                batch_size=256,
                train_limit=1024,
                test_limit=512,
            ),
            "paper": PAPER,
        },
        load=load,
        paper=PAPER_SPEECH_COMMANDS,
    )
)
