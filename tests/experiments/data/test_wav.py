"""Recordings are read as they are, or refused."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from pysemi.errors import DataError
from pysemi.experiments.data.wav import read_wav
from tests.experiments.data.archives import wav


def test_samples_are_divided_by_two_to_the_fifteenth():
    content = bytearray(wav(0, samples=3))
    content[-6:] = np.array([-(2**15), 0, 2**14], dtype="<i2").tobytes()
    samples = read_wav("x.wav", bytes(content), 8000)
    assert samples.dtype == np.float32
    assert samples.tolist() == [-1, 0, 0.5]


def test_a_recording_of_another_kind_is_refused():
    with pytest.raises(DataError, match=r"x\.wav is not a 16-bit mono recording at 8000 Hz"):
        read_wav("x.wav", wav(0, rate=16000), 8000)


def test_no_damage_is_more_than_a_data_error():
    content = wav(0, samples=10)
    for length in range(len(content)):
        with suppress(DataError):
            assert len(read_wav("x.wav", content[:length], 8000)) < 10
    for position in range(44):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        with suppress(DataError):
            assert len(read_wav("x.wav", bytes(damaged), 8000)) <= 10
