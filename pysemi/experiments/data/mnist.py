"""MNIST: 70,000 handwritten digits, 28 x 28 pixels of 256 grey levels.

Y. LeCun, C. Cortes and C. Burges, http://yann.lecun.com/exdb/mnist/ (the place
no longer gives the files to everyone; these are copies of them, with the MD5
sums that torchvision has of the originals). Labels are not needed here.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from pysemi.errors import DataError
from pysemi.experiments.data.archive import gunzip
from pysemi.experiments.data.image_set import ImageSet
from pysemi.experiments.data.sources import DataFile, obtain

__all__ = ["TEST_IMAGES", "TRAIN_IMAGES", "load_mnist", "parse_idx"]

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def _file(name: str, md5: str) -> DataFile:
    return DataFile(name, tuple(mirror + name for mirror in MIRRORS), f"md5:{md5}")


TRAIN_IMAGES = _file("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873")
TEST_IMAGES = _file("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3")

LIMIT = 16 + 60_000 * 28 * 28
"""Bytes of the larger file, decompressed."""
EVERY = 10
UNSIGNED_BYTE = 0x08


def load_mnist(
    *,
    test_images_only: bool = False,
    train_images: DataFile = TRAIN_IMAGES,
    test_images: DataFile = TEST_IMAGES,
) -> ImageSet:
    """Return the official split: 60,000 images to train on and 10,000 to test on.

    Parameters
    ----------
    test_images_only : bool
        Use the 10,000 official test images alone (1.6 MB): the images 0, 10, 20, ...
        of them to test on, and the other 9,000 to train on.
    train_images, test_images : DataFile
        idx files compressed by gzip.

    Returns
    -------
    ImageSet
        Of shape ``(images, 1, 28, 28)``.

    Raises
    ------
    DataError
        If the files cannot be had, or are not what they should be.
    """
    test = _images(obtain(test_images))
    if not test_images_only:
        train = _images(obtain(train_images))
        split = f"official: {len(train):,} training, {len(test):,} test"
        return ImageSet(train, test, 256, split)
    chosen = torch.arange(len(test)) % EVERY == 0
    split = (
        f"of the {len(test):,} official test images, every tenth (0, 10, 20, …) to test on and "
        "the others to train on; the official training images are not used"
    )
    return ImageSet(test[~chosen], test[chosen], 256, split)


def parse_idx(name: str, content: bytes) -> Tensor:
    """Turn an idx file of unsigned bytes into a tensor, as its header describes it.

    Parameters
    ----------
    name : str
        For the error message.
    content : bytes
        Two zero bytes, the kind of number, the number of dimensions, each
        dimension as a big-endian 32-bit integer, and the data.

    Returns
    -------
    Tensor
        Of the shape in the header, uint8.

    Raises
    ------
    DataError
        If the header is another, or the data is not exactly as long as it says.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise DataError(
            f"{name} is no idx file of unsigned bytes: it begins with {content[:4].hex(' ')}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{name} ends in the middle of its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{name} has {len(content) - start} bytes of data, where its header announces {shape}"
        )
    # A copy, as what torch makes of bytes must not be written to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def _images(path: Path) -> Tensor:
    images = parse_idx(str(path), gunzip(path, limit=LIMIT))
    if images.shape[1:] != (28, 28):
        raise DataError(f"{path} has {tuple(images.shape)}, which are no images of 28 x 28 pixels")
    return images.unsqueeze(1)
