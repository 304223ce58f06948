"""Free Spoken Digit Dataset: six speakers say the digits 0 to 9, 50 times each.

Z. Jackson and others, https://github.com/Jakobovski/free-spoken-digit-dataset,
CC BY-SA 4.0. 3,000 recordings at 8 kHz, turned into mel-frequency cepstral
coefficients by librosa.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.errors import DataError
from pysemi.experiments.data.archive import members
from pysemi.experiments.data.features import Arrays, cached
from pysemi.experiments.data.labelled_series import LabelledSeries
from pysemi.experiments.data.sources import DataFile, local_copy, obtain
from pysemi.experiments.data.wav import read_wav

__all__ = ["Cepstra", "load_spoken_digits", "recordings_digest"]

ARCHIVE = DataFile(
    name="free-spoken-digit-dataset-1.0.10.tar.gz",
    urls=(
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz",
    ),
    checksum=None,  # GitHub makes the archive when asked, and its bytes may change
)
OTHER_NAMES = ("fsdd.tar.xz", "free-spoken-digit-dataset-1.0.10", "recordings")
"""Of local copies."""

RECORDINGS = 3000
DIGEST = "99aa5e3a7c822ab55b2a3b47e0b05aeb9f011c54837a12e3831ad24108330829"
"""Of the recordings of tag v1.0.10, by :func:`recordings_digest`. The content is
checked rather than the archive, whose bytes depend on who compressed it."""

SAMPLE_RATE = 8000
TEST_INDICES = range(5)
"""The official test set: "recordings numbered 0-4" of each digit and speaker."""


@dataclass(frozen=True)
class Cepstra:
    """How a recording becomes a series.

    Attributes
    ----------
    seconds : float
        Length to which a recording is cut or padded with silence; 93 % of the
        recordings are shorter than the default.
    window, hop : int
        Samples in a Fourier window, and between the starts of two.
    mels, coefficients : int
        Mel bands, and cepstral coefficients kept of them.
    """

    seconds: float = 0.64
    window: int = 512
    hop: int = 160
    mels: int = 40
    coefficients: int = 20

    def of(self, signal: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coefficients, shape ``(1 + samples // hop, coefficients)``."""
        import librosa

        samples = round(self.seconds * SAMPLE_RATE)
        fitted = librosa.util.fix_length(signal, size=samples)
        cepstra = librosa.feature.mfcc(
            y=fitted,
            sr=SAMPLE_RATE,
            n_mfcc=self.coefficients,
            n_fft=self.window,
            hop_length=self.hop,
            n_mels=self.mels,
        )
        return np.ascontiguousarray(cepstra.T, dtype=np.float32)


def load_spoken_digits(cepstra: Cepstra) -> LabelledSeries:
    """Return the official split, as series of cepstral coefficients.

    The recordings are taken from ``$PYSEMI_DATA_DIR`` (the archive, ``fsdd.tar.xz``
    or an unpacked folder ``recordings``), else from the download cache, else from
    the official source. The coefficients are cached.

    Raises
    ------
    DataError
        If the recordings cannot be had, or are not those of tag v1.0.10.
    """
    names, x = _cached_features(cepstra)
    labels = torch.tensor([int(name.split("_")[0]) for name in names])
    index = torch.tensor([int(name.rsplit("_", 1)[1]) for name in names])
    test = torch.isin(index, torch.tensor(list(TEST_INDICES)))
    return LabelledSeries(
        train_x=x[~test],
        train_y=labels[~test],
        test_x=x[test],
        test_y=labels[test],
        classes=10,
        split="official: recordings 5-49 training, 0-4 test (speakers occur in both)",
    )


def recordings_digest(recordings: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted names and the SHA-256 of each recording."""
    digest = hashlib.sha256()
    for name in sorted(recordings):
        digest.update(f"{name}\0{hashlib.sha256(recordings[name]).hexdigest()}\n".encode())
    return digest.hexdigest()


def _cached_features(cepstra: Cepstra) -> tuple[list[str], Tensor]:
    def compute() -> Arrays:
        recordings = _verified_recordings()
        names = sorted(recordings)
        signals = (read_wav(name, recordings[name], SAMPLE_RATE) for name in names)
        return {
            "names": np.array([name.removesuffix(".wav") for name in names]),
            "x": np.stack([cepstra.of(signal) for signal in signals]),
        }

    stored = cached("spoken-digits", f"{DIGEST} {astuple(cepstra)}", compute)
    return stored["names"].tolist(), torch.from_numpy(stored["x"])


def _verified_recordings() -> dict[str, bytes]:
    source = local_copy(ARCHIVE.name, *OTHER_NAMES) or obtain(ARCHIVE)
    recordings = dict(_recordings_in(source))
    digest = recordings_digest(recordings)
    if digest != DIGEST:
        raise DataError(
            f"{source} holds {len(recordings)} recordings with digest {digest[:12]}…, not the "
            f"{RECORDINGS} of Free Spoken Digit Dataset v1.0.10 ({DIGEST[:12]}…); delete it, and "
            f"it is downloaded again from {ARCHIVE.urls[0]}"
        )
    return recordings


def _recordings_in(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in source.rglob("*.wav"):
            if path.parent.name == "recordings":
                yield path.name, path.read_bytes()
        return
    for name, content in members(source, _is_recording, limit=1 << 28, member_limit=1 << 20):
        yield name.rpartition("/")[2], content


def _is_recording(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return file.endswith(".wav") and folder.endswith("recordings")
