"""Compilations on disk, for the processes that come after this one.

One text file each, by a name that describes what was compiled (``pysemi/compiler/portrait.py``)
and with a digest of what it holds: what is cut short, damaged or somebody else's counts as
absent. What goes wrong with a file costs no more than its use.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pysemi.atomic import replacing
from pysemi.config import kept_folder, remove_kept

__all__ = [
    "COMPILATION_CACHE_VARIABLE",
    "KeptCompilations",
    "clear_compilations",
    "folder",
    "kept_compilations",
    "read",
    "remove",
    "write",
]

#: "off" or "0": compilations are neither kept nor looked for.
COMPILATION_CACHE_VARIABLE = "PYSEMI_COMPILATION_CACHE"

MOST_KEPT = 300
"""Files in the folder; those read or written longest ago go first."""

LARGEST = 4 * 2**20
"""Bytes of one file: what is larger has constants that would fill the disk. A model of 2,000
operators has a twentieth of it."""

FIRST_WORDS = "pysemi compilation"


def folder() -> Path | None:
    """The folder that compilations are kept in, which need not exist; None where none are kept."""
    return kept_folder("compilations", COMPILATION_CACHE_VARIABLE)


def read(name: str) -> str | None:
    """What is kept under ``name``; None if nothing is, or not as it was written."""
    path = _path(name)
    if path is None:
        return None
    try:
        first, _, content = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):  # ValueError: it is no UTF-8
        return None
    if first != _first_line(name, content):
        return None
    with contextlib.suppress(OSError):  # a folder that can only be read
        os.utime(path)
    return content


def write(name: str, content: str) -> None:
    """Keep ``content`` under ``name``, if that can be."""
    path = _path(name)
    if path is None or len(content) > LARGEST:
        return
    with contextlib.suppress(OSError):  # no room, or no right to
        # A file that a power cut has torn counts as absent: no need to wait for the disk.
        with replacing(path, durable=False) as temporary:
            temporary.write_text(
                f"{_first_line(name, content)}\n{content}", encoding="utf-8", newline="\n"
            )
        _make_room(path.parent)


def remove(name: str) -> None:
    """Keep nothing under ``name``."""
    path = _path(name)
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


@dataclass(frozen=True)
class KeptCompilations:
    """What is kept on disk.

    Attributes
    ----------
    folder : Path
    count : int
        How many compilations: one for each vector field, shape and choice of gradients.
    size : int
        In bytes.
    """

    folder: Path
    count: int
    size: int

    def as_dict(self) -> dict[str, str | int]:
        """Return it as JSON has it."""
        return {"folder": str(self.folder), "compilations": self.count, "bytes": self.size}


def kept_compilations() -> KeptCompilations | None:
    """Look at what is kept; None where none are kept."""
    where = folder()
    if where is None:
        return None
    sizes = [size for _, size, _ in _files(where)]
    return KeptCompilations(where, len(sizes), sum(sizes))


def clear_compilations() -> KeptCompilations | None:
    """Remove what is kept, and return what it was; processes that use it go on.

    Raises
    ------
    ConfigurationError
        If it cannot be removed.
    """
    kept = kept_compilations()
    if kept is not None:
        remove_kept(kept.folder)
    return kept


def _path(name: str) -> Path | None:
    where = folder()
    return None if where is None else where / f"{name}.json"


def _first_line(name: str, content: str) -> str:
    digest = blake2b(f"{name}\n{content}".encode("utf-8", "surrogatepass"), digest_size=32)
    return f"{FIRST_WORDS} {digest.hexdigest()}"


def _make_room(where: Path) -> None:
    files = sorted(_files(where))
    for _, _, path in files[: max(len(files) - MOST_KEPT, 0)]:
        with contextlib.suppress(OSError):  # another process was quicker
            path.unlink()


def _files(where: Path) -> list[tuple[float, int, Path]]:
    """When each was last used, its size and path; those that are just being written too."""
    found = []
    with contextlib.suppress(OSError), os.scandir(where) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, Path(entry.path)))
    return found
