"""An archive gives the files asked for, or an error that says what is wrong with it."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from contextlib import suppress

import pytest

from pysemi.errors import DataError
from pysemi.experiments.data.archive import gunzip, members
from tests.experiments.data.archives import tar_of

FILES = [("x/a.bin", b"a" * 3000), ("x/b.txt", b"b"), ("./x/c.bin", bytes(range(256)) * 40)]
WANTED = {"x/a.bin": FILES[0][1], "x/c.bin": FILES[2][1]}


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "the.archive"

    def read_bytes(content, limit=1 << 20, member_limit=1 << 16):
        path.write_bytes(content)
        wanted = members(
            path, lambda name: name.endswith(".bin"), limit=limit, member_limit=member_limit
        )
        found = dict(wanted)
        assert [one.name for one in tmp_path.iterdir()] == ["the.archive"]
        return found

    return read_bytes


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_the_files_asked_for_are_read(read, mode):
    assert read(tar_of(FILES, mode)) == WANTED


def kind(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize(
    "name", ["../x/e.bin", "/etc/e.bin", "x/../../e.bin", "..\\e.bin", "C:\\e.bin", "x/../e.txt"]
)
def test_a_name_that_leads_out_is_refused(read, name):
    with pytest.raises(DataError, match=r"the\.archive has a member .*leads out of the archive"):
        read(tar_of([*FILES, (name, b"evil")]))


@pytest.mark.parametrize(
    "member",
    [
        kind("x/l.bin", tarfile.SYMTYPE, "/etc/passwd"),
        kind("x/l.bin", tarfile.LNKTYPE, "x/b.txt"),
        kind("x/l.bin", tarfile.CHRTYPE),
        kind("x/l.bin", tarfile.BLKTYPE),
        kind("x/l.bin", tarfile.FIFOTYPE),
    ],
    ids=["symbolic", "hard", "character", "block", "fifo"],
)
def test_a_link_or_device_in_place_of_a_file_is_refused(read, member):
    with pytest.raises(DataError, match=r"has x/l\.bin as a link or device instead of a file"):
        read(tar_of(FILES, members=[member]))


def test_what_nobody_asks_for_is_passed_over_whatever_it_is(read):
    others = [kind("x", tarfile.DIRTYPE), kind("link", tarfile.SYMTYPE, "/etc/passwd")]
    assert read(tar_of(FILES, members=others)) == WANTED


@pytest.mark.parametrize("name", ["x/a.bin", "./x/a.bin", "x//a.bin"])
def test_a_name_that_occurs_twice_is_refused(read, name):
    with pytest.raises(DataError, match=r"has x/a\.bin twice"):
        read(tar_of([*FILES, (name, b"other")]))


def test_a_file_that_is_too_large_is_refused_before_it_is_read(read):
    with pytest.raises(DataError, match=r"has x/c\.bin with 10240 bytes, where at most 5000"):
        read(tar_of(FILES), member_limit=5000)


def test_a_header_that_promises_more_than_comes_is_refused(read):
    member = tarfile.TarInfo("x/huge.bin")
    member.size = 1 << 40
    with pytest.raises(DataError, match=r"x/huge\.bin with 1099511627776 bytes"):
        read(gzip.compress(member.tobuf() + b"little"))


@pytest.mark.parametrize("name", ["x/zeros.txt", "x/zeros.bin"])
def test_a_bomb_is_refused_by_the_bytes_that_come_out(read, name):
    with pytest.raises(DataError, match="more than the 200000 bytes that make sense"):
        read(tar_of([*FILES, (name, bytes(1 << 20))]), limit=200_000, member_limit=1 << 30)


def test_a_bomb_behind_the_end_of_the_archive_is_refused(read):
    inner = gzip.decompress(tar_of(FILES)) + bytes(1 << 20)
    with pytest.raises(DataError, match="more than the 200000 bytes"):
        read(gzip.compress(inner), limit=200_000)


def test_a_bomb_in_an_extended_header_is_refused(read):
    member = tarfile.TarInfo("pax")
    member.type = tarfile.XHDTYPE
    member.size = 1 << 20
    with pytest.raises(DataError, match="more than the 200000 bytes"):
        read(gzip.compress(member.tobuf() + bytes(1 << 20)), limit=200_000)


def test_an_archive_without_its_end_is_refused(read):
    content = tar_of(FILES)
    for length in range(1, len(content)):
        with pytest.raises(DataError):
            read(content[:length])
    with pytest.raises(DataError, match="is not whole: its end is missing; delete it"):
        read(content[:-4])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_no_changed_byte_changes_a_file(read, mode):
    content = tar_of(FILES, mode)
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        with suppress(DataError):
            assert read(bytes(damaged)) == WANTED  # the date, for one, may change


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404", "is a web page"),
        (b"no archive at all", "is no tar archive compressed by"),
        (gzip.compress(b"no tar"), "cannot be read as an archive"),
        (gzip.compress(b"\xff" * 5000), "cannot be read as an archive"),
        (b"PK\x03\x04zip", "is no tar archive"),
    ],
)
def test_what_is_no_archive_is_said_to_be_none(read, content, problem):
    with pytest.raises(DataError, match=rf"the\.archive {problem}.*delete it to have it"):
        read(content)


def test_an_uncompressed_archive_is_refused_as_its_end_cannot_be_known(read):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    with pytest.raises(DataError, match="is no tar archive compressed"):
        read(buffer.getvalue() + b"x")


def test_a_missing_archive_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        list(members(tmp_path / "none", bool, limit=1, member_limit=1))


def test_gunzip_returns_the_content_and_refuses_the_rest(tmp_path):
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(b"hello" * 100))
    assert gunzip(path, limit=500) == b"hello" * 100
    with pytest.raises(DataError, match="more than the 499 bytes"):
        gunzip(path, limit=499)
    for content, problem in [
        (gzip.compress(b"hello" * 100)[:-1], "its end is missing"),
        (gzip.compress(b"hello")[:-8] + bytes(8), "CRC check failed"),
        (b"hello", "is no gzip file"),
        (b"<html>", "is a web page"),
        (b"BZh91AY", "is no gzip file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=problem):
            gunzip(path, limit=500)
