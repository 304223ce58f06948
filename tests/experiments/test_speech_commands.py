"""The paper's experiment runs from the archive to the report, on a miniature of the archive."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch

from pysemi.experiments import Plan, reproduce
from pysemi.experiments import speech_commands as module
from pysemi.experiments.data.labelled_series import LabelledSeries
from pysemi.experiments.data.speech_commands import WORDS, load_speech_commands
from pysemi.experiments.japanese_vowels import JAPANESE_VOWELS
from pysemi.experiments.paper import TABLE_1
from pysemi.experiments.series_classification import SeriesClassification
from pysemi.experiments.speech_commands import SPEECH_COMMANDS
from pysemi.experiments.spoken_digits import SPOKEN_DIGITS
from tests.experiments.data.archives import data_file, tar_of, wav
from tests.experiments.quiet import Quiet


def test_the_paper_s_model_has_the_paper_s_number_of_parameters():
    x, y = torch.randn(20, 161, 20), torch.arange(20) % 10
    series = LabelledSeries(x, y, x, y, len(WORDS), "none")
    model = SeriesClassification(series, SPEECH_COMMANDS.preset("paper")).model({})
    assert model.matrix_field.input_channels == 21
    assert sum(parameter.numel() for parameter in model.parameters()) == 88_940


def test_the_paper_s_settings_are_those_of_its_table():
    preset = SPEECH_COMMANDS.preset("paper")
    assert (preset.epochs, preset.batch_size, preset.seeds) == (200, 1024, 5)
    assert (preset.learning_rate, preset.weight_decay) == (1.6e-3, 0.01)


@pytest.mark.parametrize(
    ("experiment", "preset", "seeds"),
    [
        (SPEECH_COMMANDS, "paper", 5),
        (JAPANESE_VOWELS, "quick", 5),
        (SPOKEN_DIGITS, "quick", 3),
    ],
)
def test_the_rows_are_those_of_table_1(experiment, preset, seeds):
    preset = experiment.preset(preset)
    variants = [preset.variant(name) for name in preset.variants]
    assert [(variant.rtol, variant.atol) for variant in variants] == list(TABLE_1)
    assert preset.seeds == seeds
    assert pickle.loads(pickle.dumps(preset)) == preset  # it goes to other processes
    assert pickle.loads(pickle.dumps(experiment.load)) is experiment.load


@pytest.mark.slow
def test_the_archive_becomes_a_report(tmp_path, monkeypatch):
    files = [
        (f"./{word}/{index:08x}_nohash_0.wav", wav(100 * number + index, 16_000, 16_000))
        for number, word in enumerate(WORDS)
        for index in range(8)
    ]
    files += [("./yes/short.wav", wav(1, 15_000, 16_000)), ("./LICENSE", b"CC BY")]
    files += [("./_background_noise_/pink_noise.wav", wav(2, 20_000, 16_000))]
    packed = tar_of(files)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mini.tar.gz").write_bytes(packed)
    monkeypatch.setenv("PYSEMI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    miniature = partial(load_speech_commands, archive=data_file("mini.tar.gz", packed))
    monkeypatch.setattr(module, "load_speech_commands", miniature)

    preset = SPEECH_COMMANDS.preset("paper")
    out = tmp_path / "out"
    outcome = reproduce(
        Plan(
            experiment=SPEECH_COMMANDS,
            preset_name="paper",
            preset=replace(preset, epochs=1, variants={"loose": {"rtol": 1e-2, "atol": 1e-2}}),
            backend="torch",
            arms=("seminorm",),
            seeds=1,
            out=out,
            resume=False,
        ),
        Quiet(),
    )
    (row,) = json.loads((out / "summary.json").read_text())["rows"]
    assert row["parameters"] == 88_940
    assert row["backward_nfe"] > 0
    assert 0 <= row["metric"] <= 1
    assert "56 training, 12 test" in outcome.report.read_text()
