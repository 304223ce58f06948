"""A user's own copy comes first, and is refused if it is another file."""

from __future__ import annotations

import pytest

from pysemi.errors import DataError
from pysemi.experiments.data.sources import cache_dir, local_copy, obtain
from tests.experiments.data.archives import data_file
from tests.experiments.data.server import Site, serving

CONTENT = b"the official file"


@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_a_copy_is_found_in_the_folder_and_below(data_dir, folder):
    (data_dir / folder).mkdir(parents=True, exist_ok=True)
    copy = data_dir / folder / "f[1].gz"
    copy.write_bytes(CONTENT)
    assert obtain(data_file("f[1].gz", CONTENT)) == copy
    assert not cache_dir().exists()


def test_a_file_of_the_same_name_and_another_data_set_is_passed_over(data_dir):
    for folder, content in (("fashion", b"clothes"), ("mnist", CONTENT)):
        (data_dir / folder).mkdir()
        (data_dir / folder / "f.gz").write_bytes(content)
    assert obtain(data_file("f.gz", CONTENT)) == data_dir / "mnist" / "f.gz"


@pytest.mark.parametrize(("content", "hint"), [(b"other", ""), (b"<html>", "it is a web page")])
def test_a_copy_that_is_another_file_is_refused_and_left_alone(data_dir, content, hint):
    (data_dir / "f.gz").write_bytes(content)
    with serving(Site(CONTENT)) as site, pytest.raises(DataError) as raised:
        obtain(data_file("f.gz", CONTENT, site.url))
    message = str(raised.value)
    assert message.startswith(f"{data_dir / 'f.gz'} is not the official f.gz (it has sha256:")
    assert hint in message
    assert "take it out of $PYSEMI_DATA_DIR" in message
    assert site.url in message
    assert site.asked == []
    assert (data_dir / "f.gz").read_bytes() == content


def test_what_is_not_there_is_downloaded_to_the_cache_and_found_again(data_dir):
    with serving(Site(CONTENT)) as site:
        file = data_file("f.gz", CONTENT, site.url)
        assert obtain(file) == obtain(file) == cache_dir() / "f.gz"
    assert site.asked == [None]


def test_a_damaged_file_in_the_cache_is_downloaded_again(data_dir):
    with serving(Site(CONTENT)) as site:
        file = data_file("f.gz", CONTENT, site.url)
        obtain(file).write_bytes(b"damaged")
        assert obtain(file).read_bytes() == CONTENT
    assert site.asked == [None, None]


def test_without_the_variable_there_are_no_copies(monkeypatch):
    monkeypatch.delenv("PYSEMI_DATA_DIR", raising=False)
    assert local_copy("f.gz") is None


def test_a_data_folder_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSEMI_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"PYSEMI_DATA_DIR=.*nowhere is not a folder"):
        local_copy("x")
