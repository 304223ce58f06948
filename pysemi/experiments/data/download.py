"""Downloads that go on where they broke off, and are checked before they count.

pooch, which knows the cache folder and the checksums, starts anew after every
lost connection; for an archive of gigabytes that is not good enough.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pysemi.atomic import write_json
from pysemi.errors import DataError
from pysemi.experiments.data.lock import making
from pysemi.experiments.data.meter import meter

__all__ = ["WEB_PAGE", "checksum_of", "download", "is_web_page"]

ATTEMPTS = 4
"""For each address."""
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each later pause is twice as long."""
TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""
CHUNK = 1 << 16
WEB_PAGE = "is a web page, perhaps a server's error message or a login page"


class _Lost(Exception):
    """Worth another attempt at the same address."""


class _Refused(Exception):
    """Another attempt at the same address would end the same way."""


def download(urls: Sequence[str], path: Path, *, checksum: str | None = None) -> None:
    """Make ``path`` from the first of ``urls`` that has it, unless it is there.

    What has arrived of a file lies beside it as ``.part`` until it is whole and
    has the right checksum. If the connection was lost or the process killed,
    the next call goes on from there, provided that the server still has the
    same version of the file and can begin in its middle.

    Parameters
    ----------
    urls : sequence of str
        Where the same file is to be had, the preferred one first.
    path : Path
        Its folder is made. A file that is there and has another checksum is
        replaced.
    checksum : str, optional
        ``"sha256:..."`` or ``"md5:..."``.

    Raises
    ------
    DataError
        If no address has the file, what comes has another checksum, or it
        cannot be stored.
    """
    try:
        with making(path):
            _make(urls, path, checksum)
    except OSError as error:  # the lock, or the folder
        raise _unwritable(path, error) from error


def checksum_of(path: Path, like: str) -> str:
    """The checksum of a file, by the algorithm that ``like`` begins with."""
    import pooch

    algorithm, _, _ = like.partition(":")
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def is_web_page(beginning: bytes) -> bool:
    """Whether a file that begins so is HTML."""
    return beginning.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _make(urls: Sequence[str], path: Path, checksum: str | None) -> None:
    part = _Part(path)
    failures = []
    try:
        if path.exists():  # by another process, while this one waited
            if checksum is None or checksum_of(path, checksum) == checksum:
                return
            path.unlink()
        for url in urls:
            try:
                _persistently(part, url, checksum)
                return
            except (_Refused, _Lost) as failure:
                failures.append(f"{url}: {failure}")
    except OSError as error:
        raise _unwritable(path, error, part.kept()) from error
    raise DataError(
        f"{path.name} could not be downloaded ({'; '.join(failures)}){part.kept()}; run it again, "
        f"or put a copy of {path.name} into a folder and set PYSEMI_DATA_DIR to it"
    )


def _unwritable(path: Path, error: OSError, kept: str = "") -> DataError:
    return DataError(
        f"{path} cannot be written ({error.strerror or error}){kept}; make room, or set "
        "XDG_CACHE_HOME to a folder on another disk, and run it again"
    )


def _persistently(part: _Part, url: str, checksum: str | None) -> None:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        try:
            resumed = _receive(part, url)
            _check(part, checksum, resumed)
            part.finish()
            return
        except _Lost as failure:
            reason = failure
    raise _Lost(f"{reason}, {ATTEMPTS} times")


def _check(part: _Part, checksum: str | None, resumed: bool) -> None:
    if checksum is None:
        return
    found = checksum_of(part.path, checksum)
    if found == checksum:
        return
    with part.path.open("rb") as file:
        page = is_web_page(file.read(512))
    part.discard()
    message = f"what came has {found}, expected {checksum}"
    if resumed:  # two versions of the file, maybe; a download in one go decides
        raise _Lost(message)
    raise _Refused(f"{message}; it {WEB_PAGE}" if page else message)


def _receive(part: _Part, url: str) -> bool:
    """Get what is missing of the file, and return whether something was there."""
    import requests
    import urllib3

    done, version, size = part.state(url)
    if done and done == size:
        return True
    # A file that is compressed must not be decompressed on the way, as its checksum tells of
    # the compressed one.
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": version}
    lost = (requests.RequestException, urllib3.exceptions.HTTPError)
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except lost as error:
        raise _Lost(_reason(error)) from error
    with response:
        if response.status_code == 429 or response.status_code >= 500:
            raise _Lost(f"HTTP {response.status_code} {response.reason}")
        if done and not _continues(response, done, version, size):
            part.discard()
            if response.status_code != 200:
                return _receive(part, url)
            done = 0
        if response.status_code != (206 if done else 200):
            raise _Refused(f"HTTP {response.status_code} {response.reason}")
        if not done:
            size = _length(response)
            part.begin(url, _version(response), size)
        missing = None if size is None else size - done
        _check_room(part.path.parent, missing)
        with (
            part.path.open("ab") as file,
            meter(part.target.name, total=size, done=done, in_bytes=True) as advance,
        ):
            received = 0
            while True:
                try:
                    chunk = response.raw.read(CHUNK, decode_content=False)
                except lost as error:
                    raise _Lost(_reason(error)) from error
                if not chunk:
                    break
                file.write(chunk)
                received += len(chunk)
                advance(len(chunk))
        # urllib3 sees that by itself from its version 2 on.
        if missing is not None and received != missing:
            raise _Lost(f"the connection was closed after {done + received} of {size} bytes")
    return bool(done)


def _continues(response: Any, done: int, version: str, size: int | None) -> bool:
    """Whether an answer is the rest of the file of which ``done`` bytes are there."""
    expected = f"bytes {done}-" if size is None else f"bytes {done}-{size - 1}/{size}"
    return (
        response.status_code == 206
        and response.headers.get("Content-Range", "").startswith(expected)
        and _version(response) == version
    )


def _version(response: Any) -> str:
    """What tells a version of the file from another; empty if the server says nothing."""
    etag: str = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # a weak one allows other bytes
        return etag
    modified: str = response.headers.get("Last-Modified", "")
    return modified


def _length(response: Any) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _check_room(folder: Path, missing: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if missing is not None and missing > free:
        raise OSError(
            errno.ENOSPC,
            f"{_megabytes(missing)} are to come, and {_megabytes(free)} are free",
        )


def _reason(error: BaseException) -> str:
    """The first cause, without the layers of libraries that passed it on."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error) or type(error).__name__


def _megabytes(amount: int) -> str:
    return f"{amount / 1e6:,.1f} MB"


class _Part:
    """What has arrived of a file, and a note beside it that says of which version."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    def state(self, url: str) -> tuple[int, str, int | None]:
        """Bytes that are there, their version, and the size of the whole if it is known."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            done = self.path.stat().st_size
            version, size = note["version"], note["size"]
            usable = note["url"] == url and version and (size is None or done <= size)
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if not usable:
            self.discard()
            return 0, "", None
        return done, version, size

    def begin(self, url: str, version: str, size: int | None) -> None:
        self.discard()
        if version:
            write_json(self._note, {"url": url, "version": version, "size": size})
        self.path.touch()

    def finish(self) -> None:
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def kept(self) -> str:
        """What is left for the next time, as the end of a sentence; of no use is no part."""
        try:
            done = self.path.stat().st_size
            if done and self._note.exists():
                return f"; {_megabytes(done)} are kept, and the next run goes on from there"
            self.discard()
        except OSError:
            pass
        return ""
