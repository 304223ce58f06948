"""Where data files come from: the user's copies first, the official source else."""

from __future__ import annotations

import os
from pathlib import Path

from pysemi.errors import DataError

__all__ = ["DATA_DIR_VARIABLE", "cache_dir", "download", "local_copy"]

DATA_DIR_VARIABLE = "PYSEMI_DATA_DIR"
"""Names a folder with local copies of data files; nothing is downloaded that is there."""


def local_copy(*names: str) -> Path | None:
    """The first of ``names`` that exists in ``$PYSEMI_DATA_DIR``, if that is set.

    Raises
    ------
    DataError
        If the variable names something that is not a folder.
    """
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"{DATA_DIR_VARIABLE}={folder} is not a folder; correct or unset it")
    return next((root / name for name in names if (root / name).exists()), None)


def cache_dir() -> Path:
    """Folder for downloads and for features computed from them.

    ``$XDG_CACHE_HOME/pysemi`` or the platform's own place, by pooch.
    """
    import pooch

    return Path(pooch.os_cache("pysemi"))


def download(url: str, name: str) -> Path:
    """Return the path of ``url``'s file, downloading it if the cache has none.

    The caller checks the content.

    Raises
    ------
    DataError
        If the file cannot be had.
    """
    import pooch

    try:
        path = pooch.retrieve(url, known_hash=None, fname=name, path=cache_dir(), progressbar=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{url} could not be downloaded ({reason}); put a copy of {name} into a folder and "
            f"set {DATA_DIR_VARIABLE} to it"
        ) from error
    return Path(path)
