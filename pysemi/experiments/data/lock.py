"""One process at a time makes a file of the cache; the others wait for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["making"]


@contextmanager
def making(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``, whose folder is made.

    Who waited finds the file there, perhaps; look again inside the block. A
    process that dies lets go of its lock.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if sys.stderr.isatty():
            sys.stderr.write(f"waiting for another process that makes {path}\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
