"""The recordings are verified, wherever they come from, and split as their authors say."""

from __future__ import annotations

import numpy as np
import pytest

from pysemi.errors import DataError
from pysemi.experiments.data import spoken_digits
from pysemi.experiments.data.sources import DataFile, cache_dir
from pysemi.experiments.data.spoken_digits import Cepstra, load_spoken_digits, recordings_digest
from pysemi.experiments.data.wav import read_wav
from tests.experiments.data.archives import tar_of, wav
from tests.experiments.data.server import Site, serving

RECORDINGS = {
    f"{digit}_{speaker}_{index}.wav": wav(seed=100 * digit + index)
    for digit in (0, 7)
    for speaker in ("ann", "bob")
    for index in (0, 4, 5, 49)
}


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    """Take the recordings above for the real set."""
    monkeypatch.setattr(spoken_digits, "DIGEST", recordings_digest(RECORDINGS))
    monkeypatch.setattr(spoken_digits, "RECORDINGS", len(RECORDINGS))


def archive_of(recordings, prefix="", mode="w:gz"):
    return tar_of(
        [(f"{prefix}recordings/{name}", content) for name, content in recordings.items()], mode
    )


def write_folder(root, recordings):
    (root / "recordings").mkdir(parents=True)
    for name, content in recordings.items():
        (root / "recordings" / name).write_bytes(content)


NAME = "free-spoken-digit-dataset-1.0.10"
LAYOUTS = {
    "the official archive": lambda d: (d / f"{NAME}.tar.gz").write_bytes(
        archive_of(RECORDINGS, f"{NAME}/")
    ),
    "a smaller archive": lambda d: (d / "fsdd.tar.xz").write_bytes(
        archive_of(RECORDINGS, mode="w:xz")
    ),
    "a folder": lambda d: write_folder(d, RECORDINGS),
    "an unpacked archive": lambda d: write_folder(d / NAME, RECORDINGS),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_tensors_come_out_of_every_layout(data_dir, layout):
    LAYOUTS[layout](data_dir)
    series = load_spoken_digits(Cepstra(hop=320))
    assert series.train_x.shape == (8, 17, 20)
    assert series.test_x.shape == (8, 17, 20)
    assert sorted(series.train_y.tolist()) == [0] * 4 + [7] * 4
    assert float(series.train_x.double().sum()) == pytest.approx(
        sum(
            float(Cepstra(hop=320).of(read_wav(name, content, 8000)).astype(np.float64).sum())
            for name, content in RECORDINGS.items()
            if int(name[:-4].rsplit("_")[-1]) >= 5
        ),
        rel=1e-5,
    )


def test_recordings_0_to_4_are_the_test_set(data_dir):
    one_digit = {name: content for name, content in RECORDINGS.items() if name.startswith("7_ann")}
    write_folder(data_dir, RECORDINGS)
    series = load_spoken_digits(Cepstra(hop=320))
    expected = Cepstra(hop=320).of(read_wav("x", one_digit["7_ann_4.wav"], 8000))
    assert any(np.allclose(row, expected) for row in series.test_x.numpy())
    assert not any(np.allclose(row, expected) for row in series.train_x.numpy())


def test_the_coefficients_are_computed_once(data_dir, monkeypatch):
    write_folder(data_dir, RECORDINGS)
    first = load_spoken_digits(Cepstra())
    monkeypatch.setattr(spoken_digits, "_verified_recordings", None)  # would raise if called
    assert np.array_equal(load_spoken_digits(Cepstra()).train_x, first.train_x)


@pytest.mark.parametrize("damage", ["one changed", "one missing", "one renamed"])
def test_other_recordings_are_refused(data_dir, damage):
    recordings = dict(RECORDINGS)
    content = recordings.pop("0_ann_5.wav")
    if damage == "one changed":
        recordings["0_ann_5.wav"] = content[:-1] + b"\x01"
    elif damage == "one renamed":
        recordings["1_ann_5.wav"] = content
    write_folder(data_dir, recordings)
    with pytest.raises(DataError, match="not the"):
        load_spoken_digits(Cepstra())


def test_a_broken_archive_is_named(data_dir):
    (data_dir / "fsdd.tar.xz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"fsdd\.tar\.xz is no tar archive"):
        load_spoken_digits(Cepstra())


def test_a_download_is_verified(data_dir, monkeypatch):
    some = archive_of({"0_ann_5.wav": RECORDINGS["0_ann_5.wav"]}, "x/")
    with serving(Site(some, length=False)) as site:  # as GitHub has it
        monkeypatch.setattr(spoken_digits, "ARCHIVE", DataFile("a.tar.gz", (site.url,), None))
        with pytest.raises(DataError, match="holds 1 recordings"):
            load_spoken_digits(Cepstra())
        site.content = archive_of(RECORDINGS, "x/")
        (cache_dir() / "a.tar.gz").unlink()
        assert len(load_spoken_digits(Cepstra()).train_x) == 8


def test_a_closed_network_says_what_to_do(data_dir, monkeypatch):
    closed = DataFile("a.tar.gz", ("http://127.0.0.1:9/a",), None)
    monkeypatch.setattr(spoken_digits, "ARCHIVE", closed)
    with pytest.raises(DataError, match=r"a\.tar\.gz could not be .*refused.*PYSEMI_DATA_DIR"):
        load_spoken_digits(Cepstra())
