"""Speech Commands becomes what the paper's code makes of it, on a miniature of the archive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysemi.errors import DataError
from pysemi.experiments.data import speech_commands as module
from pysemi.experiments.data.speech_commands import WORDS, load_speech_commands, mfcc
from tests.experiments.data.archives import data_file, tar_of, wav

PER_WORD = 10


def recordings(words=WORDS):
    return {
        f"{word}/{index:08x}_nohash_0.wav": wav(100 * number + index, 16_000, 16_000)
        for number, word in enumerate(words)
        for index in range(PER_WORD)
    }


def miniature(data_dir, files=None, changes=None):
    files = (recordings() if files is None else files) | (changes or {})
    others = {
        "LICENSE": b"CC BY 4.0",
        "README.md": b"# Speech Commands Data Set v0.02",
        "testing_list.txt": b"yes/00000000_nohash_0.wav\n",
        "validation_list.txt": b"",
        "_background_noise_/white_noise.wav": wav(0, 40_000, 16_000),
        "bed/00000000_nohash_0.wav": wav(1, 16_000, 16_000),
        "yes/more/00000000_nohash_0.wav": wav(4, 16_000, 16_000),
        "yes/0short_nohash_0.wav": wav(2, 14_000, 16_000),
        "go/zlong_nohash_0.wav": wav(3, 16_001, 16_000),
    }
    # Backwards: the order in the archive is nobody's business.
    names = sorted(others | files, reverse=True)
    packed = tar_of([(f"./{name}", (others | files)[name]) for name in names])
    (data_dir / "mini.tar.gz").write_bytes(packed)
    return data_file("mini.tar.gz", packed)


def by_hand(signal):
    """MFCCs from their definition, frame by frame, in double precision."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    padded = np.concatenate([signal[100:0:-1], signal, signal[-2:-102:-1]]).astype(np.float64)
    frames = np.stack([padded[start : start + 200] for start in range(0, len(signal) + 1, 100)])
    times, frequencies = np.arange(200), np.arange(101)
    waves = np.exp(-2j * np.pi * np.outer(times, frequencies) / 200)
    power = np.abs((frames * window) @ waves) ** 2

    edges_mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 66)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    hertz = frequencies * 80.0
    filters = np.zeros((64, 101))
    for i, (low, peak, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
        filters[i] = np.maximum(0, np.minimum(rising, falling))
    logs = np.log(power @ filters.T + 1e-6)

    n, k = np.arange(64), np.arange(20)[:, None]
    basis = np.sqrt(2 / 64) * np.cos(np.pi / 64 * (n + 0.5) * k)
    basis[0] /= np.sqrt(2)
    return logs @ basis.T


def test_the_coefficients_are_those_of_the_definition():
    draw = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    signals = np.stack([tone, 0.1 * draw.standard_normal(16_000), 0 * tone]).astype(np.float32)
    found = mfcc(signals)
    assert found.shape == (3, 161, 20)
    assert found.dtype == np.float32
    for row, signal in zip(found, signals, strict=True):
        np.testing.assert_allclose(row, by_hand(signal), rtol=0, atol=2e-2)
    # Where no band is nearly silent, single precision shows less.
    np.testing.assert_allclose(found[1], by_hand(signals[1]), rtol=0, atol=1e-3)


def test_ten_words_are_split_with_their_shares(data_dir):
    series = load_speech_commands(archive=miniature(data_dir))
    assert series.train_x.shape == (70, 161, 20)
    assert series.test_x.shape == (15, 161, 20)
    assert torch.bincount(series.train_y).tolist() == [7] * 10
    assert set(torch.bincount(series.test_y).tolist()) == {1, 2}
    assert series.classes == 10
    assert series.split.startswith("70/15/15 at random, by word: 70 training, 15 test, 15 vali")


def test_series_and_labels_belong_together_and_nothing_is_in_both_sets(data_dir):
    series = load_speech_commands(archive=miniature(data_dir))
    expected = {}
    for name, content in recordings().items():
        samples = np.frombuffer(content[-32_000:], "<i2") / 2**15
        expected[mfcc(samples[None].astype(np.float32))[0].round(2).tobytes()] = name
    names = []
    for x, y in ((series.train_x, series.train_y), (series.test_x, series.test_y)):
        for features, label in zip(x.numpy(), y.tolist(), strict=True):
            names.append(expected[features.round(2).tobytes()])
            assert names[-1].startswith(f"{WORDS[label]}/")
    assert len(set(names)) == 85


def test_the_order_of_the_archive_does_not_matter(data_dir, monkeypatch):
    first = load_speech_commands(archive=miniature(data_dir))
    forwards = tar_of(sorted(recordings().items()))
    (data_dir / "mini.tar.gz").write_bytes(forwards)
    again = load_speech_commands(archive=data_file("mini.tar.gz", forwards))
    assert torch.equal(first.train_y, again.train_y)
    assert torch.allclose(first.train_x, again.train_x, atol=1e-3)


def test_the_coefficients_are_computed_once(data_dir, monkeypatch):
    archive = miniature(data_dir)
    first = load_speech_commands(archive=archive)
    (data_dir / "mini.tar.gz").unlink()
    assert torch.equal(load_speech_commands(archive=archive).train_x, first.train_x)


@pytest.mark.parametrize(
    ("files", "changes", "problem"),
    [
        (recordings(WORDS[:-2]), {}, "no recording of 16000 samples of stop, go"),
        ({}, {}, "no recording of 16000 samples of yes, no, up"),
        (None, {"no/x.wav": wav(0, 16_000, 8_000)}, "no/x.wav in .* not a 16-bit mono .* 16000 Hz"),
        (None, {"no/x.wav": b"RIFF"}, "no/x.wav in .* cannot be read as a recording"),
        ({f"{word}/a.wav": wav(0, 16_000, 16_000) for word in WORDS}, {}, "too few to be split"),
        (None, {"no/x.wav": bytes(2 << 20)}, "no/x.wav with 2097152 bytes"),
    ],
)
def test_another_archive_is_refused(data_dir, files, changes, problem):
    with pytest.raises(DataError, match=problem):
        load_speech_commands(archive=miniature(data_dir, files, changes))


def test_only_the_official_archive_is_taken_by_itself(data_dir):
    miniature(data_dir)
    (data_dir / "mini.tar.gz").rename(data_dir / module.ARCHIVE.name)
    with pytest.raises(DataError, match=r"is not the official .* expected sha256:af14739ee7dc3"):
        load_speech_commands()
