"""CIFAR-10: 60,000 photographs, 32 x 32 pixels in three colours.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. Of the three versions there the
binary one, as it needs no pickle. Labels are not needed here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pysemi.errors import DataError
from pysemi.experiments.data.archive import members
from pysemi.experiments.data.image_set import ImageSet
from pysemi.experiments.data.sources import DataFile, obtain

__all__ = ["ARCHIVE", "load_cifar10"]

ARCHIVE = DataFile(
    name="cifar-10-binary.tar.gz",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
)

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"{FOLDER}/data_batch_{number}.bin" for number in range(1, 6))
TEST = f"{FOLDER}/test_batch.bin"
CLASSES = 10
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
"""Bytes: a label, then the red, green and blue pixels, each row by row."""
BATCH_LIMIT = 10_000 * RECORD


def load_cifar10(*, archive: DataFile = ARCHIVE) -> ImageSet:
    """Return the official split: 50,000 images to train on and 10,000 to test on.

    Parameters
    ----------
    archive : DataFile
        In the format of the official binary version.

    Returns
    -------
    ImageSet
        Of shape ``(images, 3, 32, 32)``.

    Raises
    ------
    DataError
        If the archive cannot be had, or is not what it should be.
    """
    path = obtain(archive)
    wanted = (*TRAIN, TEST)
    batches = {
        name: _images(f"{name} in {path}", content)
        for name, content in members(
            path, wanted.__contains__, limit=7 * BATCH_LIMIT, member_limit=BATCH_LIMIT
        )
    }
    missing = [name for name in wanted if name not in batches]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}; replace or delete it")
    train = torch.cat([batches[name] for name in TRAIN])
    test = batches[TEST]
    return ImageSet(train, test, 256, f"official: {len(train):,} training, {len(test):,} test")


def _images(name: str, content: bytes) -> Tensor:
    if not content or len(content) % RECORD:
        raise DataError(f"{name} has {len(content)} bytes, which are no records of {RECORD} bytes")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, RECORD)
    if int(records[:, 0].max()) >= CLASSES:
        raise DataError(f"{name} has a label {int(records[:, 0].max())}; there are 0 to 9")
    return records[:, 1:].reshape(-1, *SHAPE)
