"""Images come as the official files have them, and other files are refused."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from pysemi.errors import DataError
from pysemi.experiments.data import cifar10, mnist
from pysemi.experiments.data.cifar10 import load_cifar10
from pysemi.experiments.data.image_set import ImageSet
from pysemi.experiments.data.mnist import load_mnist, parse_idx
from pysemi.experiments.data.sources import local_copy
from tests.experiments.data.archives import data_file, tar_of


def idx(array, kind=8):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def images(count, seed=0, size=28):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


TRAIN, TEST = images(30, seed=1), images(20, seed=2)


def miniature(data_dir, train=None, test=None):
    """The files of MNIST with few images, or with other content."""
    found = {}
    for official, content in (("train_images", train), ("test_images", test)):
        default = TRAIN if official == "train_images" else TEST
        packed = gzip.compress(idx(default) if content is None else content)
        name = getattr(mnist, official.upper()).name
        (data_dir / name).write_bytes(packed)
        found[official] = data_file(name, packed)
    return found


def test_mnist_has_the_official_split(data_dir):
    found = load_mnist(**miniature(data_dir))
    assert found.train.dtype == found.test.dtype == torch.uint8
    assert np.array_equal(found.train[:, 0].numpy(), TRAIN)
    assert np.array_equal(found.test[:, 0].numpy(), TEST)
    assert found.train.shape == (30, 1, 28, 28)
    assert found.levels == 256
    assert found.split == "official: 30 training, 20 test"


def test_of_the_test_images_alone_every_tenth_is_tested_on(data_dir):
    files = miniature(data_dir)
    (data_dir / mnist.TRAIN_IMAGES.name).unlink()  # they are not asked for
    found = load_mnist(test_images_only=True, **files)
    assert np.array_equal(found.test[:, 0].numpy(), TEST[[0, 10]])
    assert np.array_equal(found.train[:, 0].numpy(), np.delete(TEST, [0, 10], axis=0))
    assert "20 official test images" in found.split


def test_only_the_official_files_are_taken_for_mnist(data_dir):
    miniature(data_dir)
    with pytest.raises(DataError, match="expected md5:9fb629c4189551a2d022fa330f9573f3"):
        load_mnist(test_images_only=True)


def test_the_official_test_images_are_what_they_were():
    if local_copy(mnist.TEST_IMAGES.name) is None:
        pytest.skip("$PYSEMI_DATA_DIR has no MNIST")
    found = load_mnist(test_images_only=True)
    assert found.train.shape == (9000, 1, 28, 28)
    assert found.test.shape == (1000, 1, 28, 28)
    whole = torch.cat([found.train, found.test]).double()
    assert float(whole.mean()) / 255 == pytest.approx(0.1325, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (idx(TEST, kind=9), "is no idx file of unsigned bytes: it begins with 00 00 09 03"),
        (b"\x01" + idx(TEST)[1:], "it begins with 01 00 08 03"),
        (b"\0\0", "it begins with 00 00"),
        (idx(TEST)[:12], "ends in the middle of its header"),
        (idx(TEST)[:-1], r"15679 bytes of data, where its header announces \(20, 28, 28\)"),
        (idx(TEST) + b"x", "15681 bytes of data"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "0 bytes of data"),
        (idx(images(3, size=27)), "no images of 28 x 28"),
        (idx(TEST[0]), "no images of 28 x 28"),
    ],
)
def test_a_file_that_is_not_as_its_header_says_is_refused(data_dir, content, problem):
    with pytest.raises(DataError, match=problem):
        load_mnist(test_images_only=True, **miniature(data_dir, test=content))


def test_an_idx_file_of_labels_is_read_too():
    assert parse_idx("labels", idx(np.arange(5))).tolist() == [0, 1, 2, 3, 4]


# CIFAR-10


def batch(count, seed, label=None):
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] = records[:, 0] % 10 if label is None else label
    return records


BATCHES = {
    **{f"data_batch_{number}.bin": batch(2, seed=number) for number in range(1, 6)},
    "test_batch.bin": batch(3, seed=6),
}


def cifar(data_dir, changes=None):
    contents = {name: records.tobytes() for name, records in BATCHES.items()} | (changes or {})
    # In another order than they are used in, and with what the official one has besides.
    files = [(f"cifar-10-batches-bin/{name}", contents[name]) for name in reversed(contents)]
    files += [("cifar-10-batches-bin/batches.meta.txt", b"airplane\n")]
    packed = tar_of([file for file in files if file[1] is not None])
    (data_dir / "mini.tar.gz").write_bytes(packed)
    return data_file("mini.tar.gz", packed)


def test_cifar10_has_the_official_split_in_the_official_order(data_dir):
    found = load_cifar10(archive=cifar(data_dir))
    assert found.train.shape == (10, 3, 32, 32)
    assert found.test.shape == (3, 3, 32, 32)
    records = np.concatenate([BATCHES[f"data_batch_{number}.bin"] for number in range(1, 6)])
    assert np.array_equal(found.train.flatten(1).numpy(), records[:, 1:])
    # The first 1024 bytes are red, row by row.
    assert found.train[3, 0, 1, 2] == records[3, 1 + 32 + 2]
    assert found.train[3, 2, 0, 0] == records[3, 1 + 2048]
    assert found.split == "official: 10 training, 3 test"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data_batch_3.bin": None}, "has no cifar-10-batches-bin/data_batch_3.bin"),
        ({"test_batch.bin": None}, "has no cifar-10-batches-bin/test_batch.bin"),
        ({"test_batch.bin": b""}, "has 0 bytes, which are no records of 3073"),
        ({"test_batch.bin": bytes(3074)}, "has 3074 bytes, which are no records"),
        ({"test_batch.bin": batch(2, 0, label=10).tobytes()}, "has a label 10"),
        ({"test_batch.bin": bytes(10_001 * 3073)}, "where at most 30730000 make sense"),
    ],
)
def test_an_archive_with_other_batches_is_refused(data_dir, changes, problem):
    with pytest.raises(DataError, match=problem):
        load_cifar10(archive=cifar(data_dir, changes))


def test_only_the_official_archive_is_taken_for_cifar10(data_dir):
    cifar(data_dir)
    (data_dir / "mini.tar.gz").rename(data_dir / cifar10.ARCHIVE.name)
    with pytest.raises(DataError, match="expected md5:c32a1d4ab5d03f1284b67883e8d87530"):
        load_cifar10()


def test_a_limit_spreads_over_the_set():
    pixels = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1)
    limited = ImageSet(pixels, pixels[:4], 256, "by hand").limited(train=3, test=None)
    assert limited.train.flatten().tolist() == [0, 4, 7]
    assert len(limited.test) == 4
