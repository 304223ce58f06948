"""Speech Commands: spoken words of one second each, of which the paper takes ten.

P. Warden, "Speech commands: a dataset for limited-vocabulary speech
recognition", 2018, arXiv:1804.03209; version 0.02, CC BY 4.0. Prepared as in the
paper's code: the recordings of exactly 16,000 samples, as 161 vectors of 20
mel-frequency cepstral coefficients.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.errors import DataError
from pysemi.experiments.data.archive import members
from pysemi.experiments.data.features import Arrays, cached
from pysemi.experiments.data.labelled_series import LabelledSeries
from pysemi.experiments.data.meter import meter
from pysemi.experiments.data.sources import DataFile, obtain
from pysemi.experiments.data.wav import read_wav

__all__ = ["ARCHIVE", "WORDS", "load_speech_commands", "mfcc"]

ARCHIVE = DataFile(
    name="speech_commands_v0.02.tar.gz",
    urls=(
        "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    ),
    checksum="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)
"""2.4 GB. The checksum is that of torchaudio and of TensorFlow Datasets."""

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""In the paper's order, which numbers the classes."""
SAMPLE_RATE = SAMPLES = 16_000

WINDOW = 200
HOP = WINDOW // 2
MELS = 64
COEFFICIENTS = 20
LOG_OFFSET = 1e-6
STEPS = 1 + SAMPLES // HOP

LIMIT = 8 << 30
"""Bytes of the archive, decompressed; the official one has about 3.5e9."""
MEMBER_LIMIT = 1 << 20
TOGETHER = 256
"""Recordings transformed in one call."""


def load_speech_commands(*, archive: DataFile = ARCHIVE) -> LabelledSeries:
    """Return the ten words as series of cepstral coefficients, split as in the paper's code.

    70 % of the recordings are to train on, 15 % to test on and 15 % for
    validation, which nothing here makes use of; each word has its share in each
    part. The paper's split cannot be had again, as it depends on the order of
    files on its authors' disk; this one has the recordings sorted by name, and
    the same random seeds.

    Parameters
    ----------
    archive : DataFile
        In the format of the official one: a folder for each word, with WAVE
        files of 16-bit mono samples at 16 kHz.

    Returns
    -------
    LabelledSeries
        Of length 161 with 20 channels; of the official archive 34,975 series
        before they are split.

    Raises
    ------
    DataError
        If the archive cannot be had, or is not what it should be.
    """
    names, x = _cached_features(archive)
    labels = torch.tensor([WORDS.index(name.split("/")[0]) for name in names])
    train, test = _split(labels)
    unused = len(names) - len(train) - len(test)
    return LabelledSeries(
        train_x=x[train],
        train_y=labels[train],
        test_x=x[test],
        test_y=labels[test],
        classes=len(WORDS),
        split=f"70/15/15 at random, by word: {len(train):,} training, {len(test):,} test, "
        f"{unused:,} validation (not used); speakers occur in several",
    )


def mfcc(signals: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coefficients that the paper's code computes by torchaudio, here by librosa.

    What ``torchaudio.transforms.MFCC(log_mels=True, n_mfcc=20,
    melkwargs=dict(n_fft=200, n_mels=64))`` stands for: at 16 kHz, the power
    spectrum in periodic Hann windows of 200 samples, 100 samples apart, the
    signal reflected at both ends; 64 triangular filters on HTK's mel scale from 0
    to 8 kHz, each with a peak of 1; log(power + 1e-6); an orthonormal DCT-II.

    Parameters
    ----------
    signals : ndarray
        Shape ``(recordings, samples)``, float32.

    Returns
    -------
    ndarray
        Shape ``(recordings, 1 + samples // 100, 20)``, float32.
    """
    import librosa
    from scipy.fft import dct

    with warnings.catch_warnings():
        # Some of the lowest filters lie between two of the 101 frequencies; torchaudio's do too.
        warnings.filterwarnings("ignore", message="Empty filters detected")
        power = librosa.feature.melspectrogram(
            y=signals,
            sr=SAMPLE_RATE,
            n_fft=WINDOW,
            hop_length=HOP,
            window="hann",
            center=True,
            pad_mode="reflect",
            power=2.0,
            n_mels=MELS,
            fmin=0.0,
            fmax=SAMPLE_RATE / 2,
            htk=True,
            norm=None,
        )
    cepstra = dct(np.log(power + LOG_OFFSET), type=2, axis=-2, norm="ortho")
    kept = cepstra[..., :COEFFICIENTS, :].swapaxes(-1, -2)
    return np.ascontiguousarray(kept, dtype=np.float32)


def _cached_features(archive: DataFile) -> tuple[list[str], Tensor]:
    def compute() -> Arrays:
        return _features(obtain(archive))

    settings = (WORDS, SAMPLES, WINDOW, MELS, COEFFICIENTS, LOG_OFFSET)
    stored = cached("speech-commands", f"{archive.checksum} {settings}", compute)
    return stored["names"].tolist(), torch.from_numpy(stored["x"])


def _features(path: Path) -> Arrays:
    names: list[str] = []
    parts: list[NDArray[np.float32]] = []
    recordings = _full_recordings(path)
    with meter("computing coefficients") as advance:
        while batch := list(islice(recordings, TOGETHER)):
            names += [name for name, _ in batch]
            parts.append(mfcc(np.stack([signal for _, signal in batch])))
            advance(len(batch))
    missing = [word for word in WORDS if not any(name.startswith(f"{word}/") for name in names)]
    if missing:
        raise DataError(
            f"{path} has no recording of {SAMPLES} samples of {', '.join(missing)}; replace or "
            "delete it"
        )
    # Placed one by one, as the official set takes half a gigabyte.
    place = np.argsort(np.argsort(names))
    x = np.empty((len(names), STEPS, COEFFICIENTS), dtype=np.float32)
    for row, features in zip(place, _rows(parts), strict=True):
        x[row] = features
    return {"names": np.array(sorted(names)), "x": x}


def _full_recordings(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, content in members(path, _is_wanted, limit=LIMIT, member_limit=MEMBER_LIMIT):
        signal = read_wav(f"{name} in {path}", content, SAMPLE_RATE)
        if len(signal) == SAMPLES:
            yield name, signal


def _is_wanted(name: str) -> bool:
    word, _, file = name.partition("/")
    return word in WORDS and file.endswith(".wav") and "/" not in file


def _rows(parts: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for part in parts:
        yield from part


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to train and to test on."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    try:
        train, rest = train_test_split(rows, train_size=0.7, random_state=0, stratify=labels)
        _, test = train_test_split(rest, train_size=0.5, random_state=1, stratify=labels[rest])
    except ValueError as error:
        raise DataError(
            f"{len(rows)} recordings are too few to be split by word ({error})"
        ) from error
    return torch.from_numpy(train), torch.from_numpy(test)
