"""Arrays that take minutes to compute, kept in the cache."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pysemi.atomic import replacing
from pysemi.errors import DataError
from pysemi.experiments.data.lock import making
from pysemi.experiments.data.sources import cache_dir

__all__ = ["Arrays", "cached"]

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


def cached(name: str, key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that ``compute`` returned the first time.

    Parameters
    ----------
    name : str
        The file's name begins so.
    key : str
        All that the arrays depend on; another key is another file.
    compute : callable
        Called if the cache has no such file, or a damaged one; by one process,
        while others wait.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache_dir() / f"{name}-{digest}.npz"
    arrays = _load(path)
    if arrays is not None:
        return arrays
    try:
        with making(path):
            arrays = _load(path)  # another process may have been faster
            if arrays is None:
                arrays = compute()
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, **cast(dict[str, Any], arrays))
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}); make room, or set "
            "XDG_CACHE_HOME to a folder on another disk"
        ) from error
    return arrays


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # none, or damaged
        return None
