"""A download is whole and right, or there is none; and what was lost is not begun again."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from pysemi.errors import DataError
from pysemi.experiments.data import download as module
from pysemi.experiments.data.download import download
from tests.experiments.data.archives import sha256
from tests.experiments.data.server import Site, serving

CONTENT = np.random.default_rng(0).bytes(1_000_000)
CHECKSUM = sha256(CONTENT)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "file.tar.gz"


def files(path):
    """What a download left, but for the lock."""
    return sorted(one.name for one in path.parent.iterdir() if not one.name.endswith(".lock"))


def test_a_file_is_downloaded_once(path):
    with serving(Site(CONTENT)) as site:
        download([site.url], path, checksum=CHECKSUM)
        download([site.url], path, checksum=CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert site.asked == [None]
    assert files(path) == ["file.tar.gz"]


def test_an_md5_sum_serves_as_well(path):
    with serving(Site(CONTENT)) as site:
        download([site.url], path, checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert path.exists()


def test_a_lost_connection_is_taken_up_where_it_broke(path):
    with serving(Site(CONTENT, breaks=[300_000, 300_000])) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert path.read_bytes() == CONTENT
    first, second, third = site.asked
    assert first is None
    # Not much of what had come was lost: one piece of 64 KiB.
    assert 200_000 < int(second.removeprefix("bytes=").removesuffix("-")) <= 300_000
    assert 400_000 < int(third.removeprefix("bytes=").removesuffix("-")) <= 600_000
    assert files(path) == ["file.tar.gz"]


def test_a_server_that_cannot_begin_in_the_middle_begins_anew(path):
    with serving(Site(CONTENT, ranges=False, breaks=[300_000])) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert len(site.asked) == 2


def test_a_server_that_tells_no_version_is_not_asked_for_a_rest(path):
    with serving(Site(CONTENT, etag=None, breaks=[300_000])) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert site.asked == [None, None]


def test_a_server_that_tells_no_length_can_be_downloaded_from(path):
    with serving(Site(CONTENT, length=False)) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert path.read_bytes() == CONTENT


def given_up(path, **settings):
    """A first run that got a part of a file, and then nothing."""
    broken = Site(CONTENT, breaks=[300_000, 0, 0, 0], **settings)
    with serving(broken) as site, pytest.raises(DataError) as raised:
        download([site.url], path, checksum=CHECKSUM)
    return str(raised.value), site


def test_the_next_run_goes_on_from_what_was_kept(path):
    message, first = given_up(path)
    assert "4 times; 0.3 MB are kept" in message.replace(")", "")
    assert "PYSEMI_DATA_DIR" in message
    assert files(path) == ["file.tar.gz.part", "file.tar.gz.part.json"]
    kept = path.with_name("file.tar.gz.part").read_bytes()
    assert CONTENT.startswith(kept)
    again = at_the_same_address(path, CONTENT)
    assert again.asked == [f"bytes={len(kept)}-"]
    assert path.read_bytes() == CONTENT
    assert first.asked[0] is None


def at_the_same_address(path, content, **settings):
    """A later run, with what it finds at the address of the first."""
    note = path.with_name("file.tar.gz.part.json")
    with serving(Site(content, **settings)) as site:
        old = note.read_text()
        note.write_text(old.replace(old.split('"url": "')[1].split('"')[0], site.url))
        download([site.url], path, checksum=sha256(content))
    return site


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changed_meanwhile_is_downloaded_anew(path, honest):
    given_up(path)
    other = CONTENT[::-1]
    # A server that does not know If-Range sends the rest of the new file.
    site = at_the_same_address(path, other, etag='"2"' if honest else '"1"')
    assert path.read_bytes() == other
    assert site.asked[0].startswith("bytes=")
    assert site.asked[1:] == ([] if honest else [None])


def test_a_server_that_sends_the_rest_of_another_version_is_not_believed(path):
    with serving(Site(CONTENT, breaks=[300_000], conditions=False)) as site:
        site.asked = Changing(site)
        download([site.url], path)  # no checksum would tell
    assert path.read_bytes() == CONTENT[::-1]
    assert [bool(one) for one in site.asked] == [False, True, False]


class Changing(list):
    """Changes the file after the first request for it."""

    def __init__(self, site):
        super().__init__()
        self.site = site

    def append(self, wanted):
        super().append(wanted)
        if len(self) == 2:
            self.site.content, self.site.etag = CONTENT[::-1], '"2"'


def test_a_file_of_another_size_is_downloaded_anew(path):
    given_up(path)
    longer = CONTENT + b"more"
    site = at_the_same_address(path, longer)
    assert path.read_bytes() == longer
    assert site.asked[1:] == [None]


def test_a_part_longer_than_the_file_is_thrown_away(path):
    given_up(path)
    with path.with_name("file.tar.gz.part").open("ab") as part:
        part.write(CONTENT)
    assert at_the_same_address(path, CONTENT).asked == [None]


def test_a_part_that_was_whole_needs_no_server(path):
    _, site = given_up(path)
    path.with_name("file.tar.gz.part").write_bytes(CONTENT)
    download([site.url], path, checksum=CHECKSUM)  # it is closed
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["garbage", "[]", '{"url": 3}', ""])
def test_a_damaged_note_means_a_new_beginning(path, damage):
    given_up(path)
    path.with_name("file.tar.gz.part.json").write_text(damage)
    with serving(Site(CONTENT)) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert site.asked == [None]
    assert path.read_bytes() == CONTENT


def test_a_part_that_cannot_be_gone_on_with_is_not_kept(path):
    message, _ = given_up(path, etag=None)
    assert "kept" not in message
    assert files(path) == []


def test_another_content_is_deleted_and_both_checksums_are_told(path):
    with serving(Site(b"something else")) as site, pytest.raises(DataError) as raised:
        download([site.url], path, checksum=CHECKSUM)
    assert f"what came has {sha256(b'something else')}, expected {CHECKSUM}" in str(raised.value)
    assert site.asked == [None]  # it would come again
    assert files(path) == []


def test_a_page_in_place_of_the_file_is_recognised(path):
    page = Site(b"\n<!DOCTYPE html><p>Sign in")
    with serving(page) as site, pytest.raises(DataError, match="it is a web page"):
        download([site.url], path, checksum=CHECKSUM)
    assert files(path) == []


def test_a_wrong_file_in_the_cache_is_replaced(path):
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    with serving(Site(CONTENT)) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert path.read_bytes() == CONTENT


def test_a_server_in_trouble_is_asked_again(path):
    with serving(Site(CONTENT, statuses=[503, 429, 500])) as site:
        download([site.url], path, checksum=CHECKSUM)
    assert len(site.asked) == 4


def test_trouble_while_a_rest_is_asked_for_loses_nothing(path):
    given_up(path)
    kept = path.with_name("file.tar.gz.part").stat().st_size
    site = at_the_same_address(path, CONTENT, statuses=[503])
    assert path.read_bytes() == CONTENT
    assert site.asked == [f"bytes={kept}-"] * 2


def test_what_is_not_there_is_looked_for_elsewhere(path):
    with serving(Site(CONTENT, statuses=[404])) as gone, serving(Site(CONTENT)) as mirror:
        download([gone.url, mirror.url], path, checksum=CHECKSUM)
    assert (len(gone.asked), len(mirror.asked)) == (1, 1)
    assert path.read_bytes() == CONTENT


def test_every_address_and_its_failure_is_named(path):
    with serving(Site(CONTENT, statuses=[404])) as gone, serving(Site(b"<html>")) as page:
        closed = "http://127.0.0.1:9/x"
        with pytest.raises(DataError) as raised:
            download([gone.url, page.url, closed], path, checksum=CHECKSUM)
    message = str(raised.value)
    assert f"{gone.url}: HTTP 404" in message
    assert f"{page.url}: what came has" in message
    assert f"{closed}: [Errno {errno.ECONNREFUSED}]" in message
    assert "HTTPConnectionPool" not in message


def test_a_server_that_falls_silent_is_given_up(path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (1.0, 0.2))
    with serving(Site(CONTENT, pause=1.0)) as site, pytest.raises(DataError, match="timed out"):
        download([site.url], path, checksum=CHECKSUM)


def test_a_disk_that_is_too_small_is_known_before_a_byte_comes(path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=500_000))
    problem = r"1\.0 MB are to come, and 0\.5 MB are free.*XDG_CACHE_HOME"
    with serving(Site(CONTENT)) as site, pytest.raises(DataError, match=problem):
        download([site.url], path, checksum=CHECKSUM)
    assert files(path) == []


def test_a_disk_that_fills_up_keeps_what_it_has(path, monkeypatch):
    arrived = 0

    def full(more):
        nonlocal arrived
        arrived += more
        if arrived > 300_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving(Site(CONTENT)) as site:
        with monkeypatch.context() as patch:
            patch.setattr(module, "meter", lambda *_, **__: nullcontext(full))
            with pytest.raises(DataError, match=r"No space left on device\); 0\.3 MB are kept"):
                download([site.url], path, checksum=CHECKSUM)
        assert len(site.asked) == 1
        download([site.url], path, checksum=CHECKSUM)
    assert site.asked[1].startswith("bytes=")
    assert path.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        download(["http://127.0.0.1:9/"], tmp_path / "cache" / "x" / "file")


PROGRAM = """
import sys
from pathlib import Path
from pysemi.experiments.data.download import download
download([sys.argv[1]], Path(sys.argv[2]), checksum=sys.argv[3])
"""


def started(site, path):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, site.url, str(path), CHECKSUM])


@pytest.mark.slow
def test_a_killed_process_leaves_no_file_and_the_next_goes_on(path):
    with serving(Site(CONTENT, pause=0.1)) as site:
        process = started(site, path)
        part = path.with_name("file.tar.gz.part")
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not path.exists()
        site.pause = 0.0
        download([site.url], path, checksum=CHECKSUM)
    assert site.asked[1].startswith("bytes=")
    assert path.read_bytes() == CONTENT


@pytest.mark.slow
def test_two_processes_at_once_download_one_file(path):
    with serving(Site(CONTENT, pause=0.1)) as site:
        processes = [started(site, path) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENT
    assert site.asked == [None]


def test_a_watcher_sees_a_bar_and_a_pipe_sees_nothing(path, monkeypatch, capsys):
    with serving(Site(CONTENT)) as site:
        download([site.url], path, checksum=CHECKSUM)
        assert capsys.readouterr() == ("", "")
        path.unlink()
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("FORCE_COLOR", "1")
        download([site.url], path, checksum=CHECKSUM)
    out, err = capsys.readouterr()
    assert out == ""
    assert "file.tar.gz" in err
