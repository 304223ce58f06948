"""The statistics of many solves in one compact file.

A NumPy ``.npz`` archive with one entry per solve in the columns named like the
fields of :class:`pysemi.SolveStats`, and the times of all solves one after the
other, with a column of lengths for each kind of time.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pysemi.atomic import replacing
from pysemi.errors import ResultsError
from pysemi.stats import SolveStats

__all__ = ["read_solves", "write_solves"]

_ABSENT = -1
"""Stands for None in a column of counts."""

_TIMES = ("step_times", "step_sizes", "rejected_times", "evaluation_times")
_COUNTS = (
    "nfe",
    "nvjp",
    "accepted",
    "rejected",
    "state_size",
    "parameter_size",
    "trajectory",
)
_SECONDS = ("seconds", "compile_seconds")
_WORDS = tuple(
    field.name for field in fields(SolveStats) if field.name not in (*_TIMES, *_COUNTS, *_SECONDS)
)


def write_solves(path: Path, solves: Sequence[SolveStats]) -> None:
    """Write the solves to ``path``, atomically."""
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name in _WORDS:
        columns[name] = np.array([getattr(solve, name) or "" for solve in solves], dtype=np.str_)
    for name in _COUNTS:
        values = [getattr(solve, name) for solve in solves]
        columns[name] = np.array([_ABSENT if v is None else v for v in values], dtype=np.int64)
    for name in _SECONDS:
        columns[name] = np.array([getattr(solve, name) for solve in solves], dtype=np.float64)
    for name in _TIMES:
        times = [getattr(solve, name) for solve in solves]
        columns[f"{name}_length"] = np.array([len(one) for one in times], dtype=np.int64)
        columns[name] = np.concatenate([np.empty(0), *times])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **columns)


def read_solves(path: Path) -> list[SolveStats]:
    """Read the solves that :func:`write_solves` wrote, in their order.

    Raises
    ------
    ResultsError
        If there is no such file, or it is damaged or of another version.
    """
    try:
        return _solves(path)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ResultsError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete its run's folder and "
            "make the run again with --resume"
        ) from error


def _solves(path: Path) -> list[SolveStats]:
    with np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    rows: dict[str, list[Any]] = {}
    for name in _WORDS:
        rows[name] = [word or None for word in columns[name].tolist()]
    for name in _COUNTS:
        rows[name] = [None if v == _ABSENT else v for v in columns[name].tolist()]
    for name in _SECONDS:
        rows[name] = columns[name].tolist()
    for name in _TIMES:
        ends = np.cumsum(columns[f"{name}_length"])
        rows[name] = np.split(columns[name], ends[:-1]) if len(ends) else []
    return [
        SolveStats(**{name: column[i] for name, column in rows.items()})
        for i in range(len(columns["nfe"]))
    ]
