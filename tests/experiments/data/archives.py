"""Small archives and recordings in the formats of the large ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
import wave

import numpy as np

from pysemi.experiments.data.sources import DataFile


def tar_of(files, mode="w:gz", members=()) -> bytes:
    """A tar archive of (name, content) pairs, and of ``members`` without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return buffer.getvalue()


def wav(seed: int, samples: int = 2000, rate: int = 8000) -> bytes:
    signal = np.random.default_rng(seed).integers(-3000, 3000, samples).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(signal.tobytes())
    return buffer.getvalue()


def data_file(name: str, content: bytes, *urls: str) -> DataFile:
    return DataFile(name, urls or ("http://127.0.0.1:9/nothing",), sha256(content))


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
