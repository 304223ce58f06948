"""The experiment ``japanese-vowels``: tell the speaker."""

from __future__ import annotations

from dataclasses import replace

from pysemi.experiments.data.japanese_vowels import load_japanese_vowels
from pysemi.experiments.experiment import register
from pysemi.experiments.paper import SPEECH_COMMANDS
from pysemi.experiments.series_classification import CDEPreset, SeriesClassification
from pysemi.experiments.tolerances import TABLE_1_TOLERANCES
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["JAPANESE_VOWELS", "load"]


def load(preset: CDEPreset) -> SeriesClassification:
    """Read the utterances, which the aeon package carries."""
    return SeriesClassification(load_japanese_vowels(), preset)


QUICK = CDEPreset(
    about="the paper's tolerances with a small model; on Julia, a few seconds a run at the loosest "
    "of them and a minute at the tightest",
    seeds=5,
    variants=TABLE_1_TOLERANCES,
    epochs=12,
    batch_size=135,
    learning_rate=4e-3,
    rtol=1e-3,
    atol=1e-6,
    hidden_channels=32,
    width=64,
    depth=2,
)

JAPANESE_VOWELS = register(
    TrainingExperiment(
        name="japanese-vowels",
        title="Neural CDE on JapaneseVowels",
        about="Recognise nine speakers by 7 to 29 cepstrum vectors of one utterance "
        "(270 to train on, 370 to test on); a small stand-in for the paper's Speech Commands.",
        presets={
            "quick": QUICK,
            "smooth": replace(
                QUICK, variants={}, seeds=1, hidden_channels=64, width=128, learning_rate=2e-3
            ).smooth(),
            "full": replace(
                QUICK,
                about="100 epochs with the vector field of the paper's Speech Commands model",
                epochs=100,
                learning_rate=1.6e-3,
                hidden_channels=90,
                width=40,
                depth=4,
            ),
        },
        load=load,
        paper=SPEECH_COMMANDS,
    )
)
