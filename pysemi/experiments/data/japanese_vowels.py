"""JapaneseVowels: nine male speakers say two vowels, and the voice is to be told.

640 utterances, each 7 to 29 LPC cepstrum coefficient vectors of 12 channels
(Kudo, Toyama & Shimbo, Pattern Recognition Letters 20, 1999). The aeon package
carries the data, so nothing is downloaded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pysemi.experiments.data.labelled_series import LabelledSeries, hold_last_value

__all__ = ["load_japanese_vowels"]

CLASSES = 9
LONGEST = 29
"""Vectors in the longest utterance (it is in the test set)."""


def load_japanese_vowels() -> LabelledSeries:
    """Return the official split, shorter utterances held at their last value."""
    from aeon import datasets

    def load(split: str) -> tuple[Tensor, Tensor]:
        x, y = datasets.load_japanese_vowels(split=split)
        series = [torch.as_tensor(utterance.T, dtype=torch.float32) for utterance in x]
        return hold_last_value(series, LONGEST), torch.tensor([int(label) - 1 for label in y])

    train_x, train_y = load("train")
    test_x, test_y = load("test")
    return LabelledSeries(
        train_x, train_y, test_x, test_y, CLASSES, split="official: 270 training, 370 test"
    )
