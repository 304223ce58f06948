"""Recordings in RIFF/WAVE files."""

from __future__ import annotations

import io
import wave

import numpy as np
from numpy.typing import NDArray

from pysemi.errors import DataError

__all__ = ["read_wav"]


def read_wav(name: str, content: bytes, rate: int) -> NDArray[np.float32]:
    """Return the samples of a 16-bit mono recording, divided by 2^15.

    Parameters
    ----------
    name : str
        For the error message.
    content : bytes
    rate : int
        Samples per second that it must have.

    Returns
    -------
    ndarray
        Shape ``(samples,)``, float32, from -1 to 1.

    Raises
    ------
    DataError
        If it is another kind of recording, or none.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:  # the last for chunks that do not fit
        raise DataError(f"{name} cannot be read as a recording ({error})") from error
    if kind != (1, 2, rate):
        raise DataError(f"{name} is not a 16-bit mono recording at {rate} Hz")
    samples = np.frombuffer(frames[: len(frames) // 2 * 2], dtype="<i2")
    return np.asarray(samples / 2**15, dtype=np.float32)
