"""The experiment ``japanese-vowels``: tell the speaker."""

from __future__ import annotations

from pysemi.experiments.data.japanese_vowels import load_japanese_vowels
from pysemi.experiments.experiment import Experiment, register
from pysemi.experiments.paper import TABLE_1, PaperComparison
from pysemi.experiments.series_classification import CDEPreset, SeriesClassification

__all__ = ["JAPANESE_VOWELS"]

JAPANESE_VOWELS = register(
    Experiment(
        name="japanese-vowels",
        title="Neural CDE on JapaneseVowels",
        about="Recognise nine speakers by 7 to 29 cepstrum vectors of one utterance "
        "(270 to train on, 370 to test on); a small stand-in for the paper's Speech Commands.",
        presets={
            "quick": CDEPreset(
                about="two minutes or so for both norms on two cores",
                epochs=10,
                batch_size=90,
                learning_rate=3e-3,
                rtol=1e-3,
                atol=1e-6,
                hidden_channels=32,
                width=128,
                depth=2,
            ),
        },
        load=lambda preset: SeriesClassification(load_japanese_vowels(), preset),
        paper=PaperComparison("Table 1", "Speech Commands, 5 repeats", TABLE_1),
    )
)
