"""The experiment ``spoken-digits``: tell the digit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pysemi.experiments.data.spoken_digits import Cepstra, load_spoken_digits
from pysemi.experiments.experiment import register
from pysemi.experiments.paper import SPEECH_COMMANDS
from pysemi.experiments.series_classification import CDEPreset, SeriesClassification
from pysemi.experiments.tolerances import TABLE_1_TOLERANCES
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["SPOKEN_DIGITS", "SpokenDigitsPreset", "load"]


@dataclass(frozen=True, kw_only=True)
class SpokenDigitsPreset(CDEPreset):
    """Adds how the recordings become series.

    Attributes
    ----------
    hop : int
        Samples between two observations, at 8 kHz; a recording has
        ``1 + 5120 // hop`` of them.
    """

    hop: int


def load(preset: SpokenDigitsPreset) -> SeriesClassification:
    """Get the recordings, and turn them into series."""
    return SeriesClassification(load_spoken_digits(Cepstra(hop=preset.hop)), preset)


QUICK = SpokenDigitsPreset(
    about="the paper's tolerances with a small model and a third of the recordings; on Julia, ten "
    "seconds a run at the loosest of them and three minutes at the tightest",
    seeds=3,
    variants=TABLE_1_TOLERANCES,
    epochs=4,
    batch_size=90,
    train_limit=900,
    learning_rate=3e-3,
    rtol=1e-3,
    atol=1e-6,
    hidden_channels=32,
    width=32,
    depth=2,
    hop=320,
)

SPOKEN_DIGITS = register(
    TrainingExperiment(
        name="spoken-digits",
        title="Neural CDE on spoken digits",
        about="Recognise the digits 0 to 9 spoken by six people, by mel-frequency cepstral "
        "coefficients (Free Spoken Digit Dataset: 2,700 recordings to train on, 300 to test on); "
        "a stand-in for the paper's Speech Commands that runs on two cores.",
        presets={
            "quick": QUICK,
            "smooth": replace(
                QUICK,
                variants={},
                seeds=1,
                epochs=3,
                batch_size=270,
                train_limit=None,
                width=64,
            ).smooth(),
            "full": replace(
                QUICK,
                about="40 epochs with the vector field of the paper's Speech Commands model, at "
                "twice the time resolution",
                epochs=40,
                batch_size=540,
                train_limit=None,
                learning_rate=1.6e-3,
                hidden_channels=90,
                width=40,
                depth=4,
                hop=160,
            ),
        },
        load=load,
        paper=SPEECH_COMMANDS,
    )
)
