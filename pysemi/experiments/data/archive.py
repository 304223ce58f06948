"""Archives that are read member by member, without trust and without unpacking.

Nothing of an archive reaches the disk. That leaves what can go wrong in memory:
an archive that grows without end, and names that do not mean what they seem to.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from pysemi.errors import DataError
from pysemi.experiments.data.download import WEB_PAGE, is_web_page

__all__ = ["gunzip", "members"]

# Each of them has a checksum at its end, by which a file that is not whole is known. A plain
# tar file has none, and is not read.
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_CHUNK = 1 << 20


class _Bad(Exception):
    """What is wrong with an archive, as the end of a sentence that names it."""


def members(
    path: Path, wanted: Callable[[str], bool], *, limit: int, member_limit: int
) -> Iterator[tuple[str, bytes]]:
    """Go through a compressed tar archive once, yielding some of its files.

    Parameters
    ----------
    path : Path
        A tar archive compressed by gzip, bzip2 or xz.
    wanted : callable
        From a member's name (without a leading ``./``) to whether it is yielded.
        What is not wanted is passed over.
    limit, member_limit : int
        Bytes of the whole archive, decompressed, and of one wanted member.

    Yields
    ------
    (str, bytes)
        Name and content, in the order of the archive.

    Raises
    ------
    DataError
        If it is no such archive, is damaged or not whole, is larger than the
        limits, has a name that leads out of the archive, or if a wanted member
        occurs twice or is a link or a device. Perhaps after some members.
    """
    seen = set()
    with _decompressed(path, limit) as stream:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
            for member in archive:
                name = _safe_name(member.name)
                if member.isdir() or not wanted(name):
                    continue
                if not member.isfile() or member.issparse():
                    raise _Bad(f"has {name} as a link or device instead of a file")
                if name in seen:
                    raise _Bad(f"has {name} twice")
                if not 0 <= member.size <= member_limit:
                    raise _Bad(
                        f"has {name} with {member.size} bytes, where at most {member_limit} "
                        "make sense"
                    )
                seen.add(name)
                file = archive.extractfile(member)
                assert file is not None  # it is a regular file
                yield name, file.read()
        while stream.read(_CHUNK):  # the checksum is at the end
            pass


def gunzip(path: Path, *, limit: int) -> bytes:
    """The content of a gzip file.

    Raises
    ------
    DataError
        If it is none, is damaged or not whole, or has more than ``limit`` bytes.
    """
    with _decompressed(path, limit, b"\x1f\x8b") as stream:
        return b"".join(iter(lambda: stream.read(_CHUNK), b""))


class _Bounded:
    """A stream that gives so many bytes and no more."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = self._left = limit

    def read(self, size: int) -> bytes:
        # One more than there may be, to see whether there is one.
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _Bad(f"has more than the {self._limit} bytes that make sense, decompressed")
        return data


@contextmanager
def _decompressed(path: Path, limit: int, *kinds: bytes) -> Iterator[_Bounded]:
    try:
        with path.open("rb") as file:
            beginning = file.read(512)
        magic = next((one for one in kinds or _OPENERS if beginning.startswith(one)), None)
        if not beginning:
            raise _Bad("is empty")
        if magic is None:
            kind = "gzip file" if kinds else "tar archive compressed by gzip, bzip2 or xz"
            raise _Bad(WEB_PAGE if is_web_page(beginning) else f"is no {kind}")
        with _OPENERS[magic](path) as stream:
            yield _Bounded(stream, limit)
    except _Bad as error:
        raise _refusal(path, str(error)) from None
    except EOFError as error:
        raise _refusal(path, "is not whole: its end is missing") from error
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:
        raise _refusal(path, f"cannot be read as an archive ({error})") from error


def _refusal(path: Path, problem: str) -> DataError:
    return DataError(
        f"{path} {problem}; delete it to have it downloaded again, or put an intact copy in its "
        "place"
    )


def _safe_name(name: str) -> str:
    windows = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    if windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise _Bad(f"has a member {name!r}, whose name leads out of the archive")
    return PurePosixPath(name).as_posix()
