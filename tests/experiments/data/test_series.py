"""Series become tensors without leaking the test set into the training set."""

from __future__ import annotations

import torch

from pysemi.experiments.data.japanese_vowels import load_japanese_vowels
from pysemi.experiments.data.labelled_series import LabelledSeries, hold_last_value


def test_shorter_series_are_held_at_their_last_value():
    series = [torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [6.0], [7.0]])]
    assert hold_last_value(series).squeeze(-1).tolist() == [[1, 2, 2], [5, 6, 7]]
    assert hold_last_value(series, length=4)[1].flatten().tolist() == [5, 6, 7, 7]


def two_sets() -> LabelledSeries:
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(8, 5, 2, generator=generator) * 3 + 1
    return LabelledSeries(
        train, torch.arange(8), train[:4] + 100, torch.arange(4), classes=8, split="by hand"
    )


def test_normalisation_uses_the_training_set_alone():
    normalised = two_sets().normalised()
    assert torch.allclose(normalised.train_x.mean((0, 1)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(normalised.train_x.std((0, 1)), torch.ones(2), atol=1e-4)
    assert normalised.test_x.mean() > 10


def test_time_comes_first_and_counts_observations():
    timed = two_sets().with_time()
    assert timed.train_x.shape == (8, 5, 3)
    assert timed.train_x[3, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(timed.train_x[..., 1:], two_sets().train_x)


def test_a_limit_keeps_series_and_labels_together_and_spreads_over_the_set():
    limited = two_sets().limited(train=3, test=None)
    assert limited.train_y.tolist() == [0, 4, 7]
    assert torch.equal(limited.train_x, two_sets().train_x[limited.train_y])
    assert len(limited.test_x) == 4
    assert len(two_sets().limited(100, 100).train_x) == 8


def test_japanese_vowels_is_the_official_split():
    series = load_japanese_vowels()
    assert series.train_x.shape == (270, 29, 12)
    assert series.test_x.shape == (370, 29, 12)
    assert torch.bincount(series.train_y).tolist() == [30] * 9
    assert torch.bincount(series.test_y).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert torch.isfinite(series.train_x).all()
