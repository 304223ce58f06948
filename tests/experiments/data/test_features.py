"""What took minutes is computed once."""

from __future__ import annotations

import numpy as np
import pytest

from pysemi.errors import DataError
from pysemi.experiments.data.features import cached
from pysemi.experiments.data.sources import cache_dir


@pytest.fixture
def compute():
    def compute():
        compute.calls += 1
        return {"names": np.array(["a", "b"]), "x": np.arange(6.0).reshape(2, 3)}

    compute.calls = 0
    return compute


def stored():
    return [path for path in cache_dir().iterdir() if path.suffix == ".npz"]


def test_arrays_are_computed_once_for_each_key(data_dir, compute):
    first, again = cached("f", "k", compute), cached("f", "k", compute)
    assert compute.calls == 1
    assert again["names"].tolist() == ["a", "b"]
    assert np.array_equal(first["x"], again["x"])
    cached("f", "other", compute)
    assert compute.calls == 2
    assert len(stored()) == 2


@pytest.mark.parametrize("damage", ["truncated", "changed", "emptied"])
def test_a_damaged_file_is_computed_again(data_dir, compute, damage):
    cached("f", "k", compute)
    (path,) = stored()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes({"truncated": content[:-30], "changed": content, "emptied": b""}[damage])
    assert np.array_equal(cached("f", "k", compute)["x"], np.arange(6.0).reshape(2, 3))
    assert compute.calls == 2


def test_what_fails_leaves_nothing(data_dir):
    def fail():
        raise DataError("no such recordings")

    with pytest.raises(DataError, match="no such recordings"):
        cached("f", "k", fail)
    assert stored() == []


def test_a_cache_that_cannot_be_written_is_named(data_dir, compute):
    cache_dir().parent.mkdir()
    cache_dir().write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written .*XDG_CACHE_HOME"):
        cached("f", "k", compute)
