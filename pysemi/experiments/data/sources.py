"""Where data files come from: the user's copies first, the official source else."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pysemi.errors import DataError
from pysemi.experiments.data.download import WEB_PAGE, checksum_of, download, is_web_page

__all__ = ["DATA_DIR_VARIABLE", "DataFile", "cache_dir", "local_copy", "obtain"]

DATA_DIR_VARIABLE = "PYSEMI_DATA_DIR"
"""Names a folder with local copies of data files; nothing is downloaded that is there."""


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, as its authors publish it.

    Attributes
    ----------
    name : str
        Of a local copy, and of the file in the cache.
    urls : tuple of str
        Where it is to be had, the preferred one first.
    checksum : str or None
        ``"sha256:..."`` or ``"md5:..."``, as published; None for a file whose
        content the loader checks.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None


def obtain(file: DataFile) -> Path:
    """Return the path of a file, downloading it if it is neither local nor cached.

    Raises
    ------
    DataError
        If it cannot be had, or a local copy has another checksum.
    """
    copy = _verified_copy(file)
    if copy is not None:
        return copy
    cached = cache_dir() / file.name
    if not (cached.exists() and _is(cached, file)):
        download(file.urls, cached, checksum=file.checksum)
    return cached


def local_copy(*names: str) -> Path | None:
    """The first of ``names`` that is in ``$PYSEMI_DATA_DIR``, if that is set.

    Raises
    ------
    DataError
        If the variable names something that is not a folder.
    """
    return next(_local_copies(*names), None)


def cache_dir() -> Path:
    """Folder for downloads and for features computed from them.

    ``$XDG_CACHE_HOME/pysemi`` or the platform's own place, by pooch.
    """
    import pooch

    return Path(pooch.os_cache("pysemi"))


def _local_copies(*names: str) -> Iterator[Path]:
    """Each of ``names`` in the folder and up to two folders below, where others unpack to."""
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"{DATA_DIR_VARIABLE}={folder} is not a folder; correct or unset it")
    for name in names:
        for depth in ("", "*/", "*/*/"):
            yield from sorted(root.glob(depth + glob.escape(name)))


def _verified_copy(file: DataFile) -> Path | None:
    # All of them are looked at, since other data sets have files of the same name:
    # Fashion-MNIST's are called as MNIST's are.
    copies = [copy for copy in _local_copies(file.name) if copy.is_file()]
    for copy in copies:
        if _is(copy, file):
            return copy
    if not copies:
        return None
    assert file.checksum is not None  # any file would have done
    with copies[0].open("rb") as opened:
        page = f"; it {WEB_PAGE}" if is_web_page(opened.read(512)) else ""
    raise DataError(
        f"{copies[0]} is not the official {file.name} (it has "
        f"{checksum_of(copies[0], file.checksum)}, expected {file.checksum}{page}); replace it, or "
        f"take it out of ${DATA_DIR_VARIABLE} to have it downloaded from {file.urls[0]}"
    )


def _is(path: Path, file: DataFile) -> bool:
    try:
        return file.checksum is None or checksum_of(path, file.checksum) == file.checksum
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
