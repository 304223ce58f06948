"""The recordings are verified, wherever they come from, and split as their authors say."""

from __future__ import annotations

import io
import tarfile
import wave

import numpy as np
import pytest

from pysemi.errors import DataError
from pysemi.experiments.data import sources, spoken_digits
from pysemi.experiments.data.spoken_digits import Cepstra, load_spoken_digits, recordings_digest


def wav(seed: int, samples: int = 2000, rate: int = 8000) -> bytes:
    signal = np.random.default_rng(seed).integers(-3000, 3000, samples).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(signal.tobytes())
    return buffer.getvalue()


RECORDINGS = {
    f"{digit}_{speaker}_{index}.wav": wav(seed=100 * digit + index)
    for digit in (0, 7)
    for speaker in ("ann", "bob")
    for index in (0, 4, 5, 49)
}


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty data folder, a cache of its own, and the miniature in place of the real set."""
    monkeypatch.setenv("PYSEMI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(spoken_digits, "DIGEST", recordings_digest(RECORDINGS))
    monkeypatch.setattr(spoken_digits, "RECORDINGS", len(RECORDINGS))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_archive(path, recordings, prefix):
    with tarfile.open(path, "w:*" if path.suffix == ".tar" else f"w:{path.suffix[1:]}") as archive:
        for name, content in recordings.items():
            member = tarfile.TarInfo(f"{prefix}recordings/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_folder(root, recordings):
    (root / "recordings").mkdir(parents=True)
    for name, content in recordings.items():
        (root / "recordings" / name).write_bytes(content)


LAYOUTS = {
    "the official archive": lambda d: write_archive(
        d / "free-spoken-digit-dataset-1.0.10.tar.gz",
        RECORDINGS,
        "free-spoken-digit-dataset-1.0.10/",
    ),
    "a smaller archive": lambda d: write_archive(d / "fsdd.tar.xz", RECORDINGS, ""),
    "a folder": lambda d: write_folder(d, RECORDINGS),
    "an unpacked archive": lambda d: write_folder(
        d / "free-spoken-digit-dataset-1.0.10", RECORDINGS
    ),
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
            float(
                Cepstra(hop=320).of(spoken_digits._signal(name, content)).astype(np.float64).sum()
            )
            for name, content in RECORDINGS.items()
            if int(name[:-4].rsplit("_")[-1]) >= 5
        ),
        rel=1e-5,
    )


def test_recordings_0_to_4_are_the_test_set(data_dir):
    one_digit = {name: content for name, content in RECORDINGS.items() if name.startswith("7_ann")}
    write_folder(data_dir, RECORDINGS)
    series = load_spoken_digits(Cepstra(hop=320))
    expected = Cepstra(hop=320).of(spoken_digits._signal("x", one_digit["7_ann_4.wav"]))
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
    with pytest.raises(DataError, match=r"fsdd\.tar\.xz cannot be read as an archive"):
        load_spoken_digits(Cepstra())


def test_a_download_is_verified_and_a_closed_network_says_what_to_do(data_dir, monkeypatch):
    import pooch

    asked = []

    def closed(url, **kwargs):
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", closed)
    with pytest.raises(DataError, match=r"no route to host.*PYSEMI_DATA_DIR"):
        load_spoken_digits(Cepstra())
    assert asked == [spoken_digits.URL]

    archive = data_dir.parent / "downloaded.tar.gz"
    write_archive(archive, {"0_ann_5.wav": RECORDINGS["0_ann_5.wav"]}, "x/")
    monkeypatch.setattr(pooch, "retrieve", lambda url, **kwargs: str(archive))
    with pytest.raises(DataError, match="holds 1 recordings"):
        load_spoken_digits(Cepstra())
    write_archive(archive, RECORDINGS, "x/")
    assert len(load_spoken_digits(Cepstra()).train_x) == 8


def test_a_recording_of_another_kind_is_refused():
    with pytest.raises(DataError, match="8000 Hz"):
        spoken_digits._signal("x.wav", wav(0, rate=16000))


def test_a_data_folder_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSEMI_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"PYSEMI_DATA_DIR=.*nowhere is not a folder"):
        sources.local_copy("x")
