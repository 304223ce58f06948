"""Finished experiments on disk: a folder for each plan, found and read back.

A folder of results has ``summary.json`` (rows and how they were made) and
``runs`` (a folder for each run, see :mod:`pysemi.experiments.run_directory`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysemi.errors import ResultsError
from pysemi.experiments.experiment import Run
from pysemi.experiments.run_directory import RunDirectory

__all__ = ["Results", "find_results"]

SUMMARY = "summary.json"
_KEYS = ("experiment", "preset", "backend", "command", "facts", "environment", "rows", "folders")


@dataclass(frozen=True)
class Results:
    """What one plan came to.

    Attributes
    ----------
    path : Path
        Of its folder.
    experiment, preset, backend : str
    command : str
        The arguments of ``pysemi`` that make the same again.
    facts : mapping of str to str
        What a reader should know of the data.
    environment : mapping
        What it ran on.
    rows : sequence of mapping
        One per run.
    folders : sequence of str
        Of the runs, in the order of the rows, below ``path``.
    """

    path: Path
    experiment: str
    preset: str
    backend: str
    command: str
    facts: Mapping[str, str]
    environment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    folders: Sequence[str]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a folder's ``summary.json``.

        Raises
        ------
        ResultsError
            If there is none, or it is not one of ours.
        """
        summary = path / SUMMARY
        try:
            stored = json.loads(summary.read_text("utf-8"))
            return cls(path, **{key: stored[key] for key in _KEYS})
        except OSError as error:
            raise ResultsError(f"{summary} cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ResultsError(
                f"{summary} is not what `pysemi reproduce` writes ({type(error).__name__}: {error})"
            ) from error

    def summary(self) -> dict[str, Any]:
        """As it is written to ``summary.json``."""
        return {key: getattr(self, key) for key in _KEYS}

    def runs(self) -> list[Run]:
        """The runs with their folders.

        Raises
        ------
        ResultsError
            If a run's folder is not there any more.
        """
        runs = [
            Run(row, RunDirectory(self.path / folder))
            for row, folder in zip(self.rows, self.folders, strict=True)
        ]
        for run in runs:
            if run.directory.result is None:
                raise ResultsError(
                    f"{run.directory.path}, whose row is in {self.path / SUMMARY}, is not there or "
                    f"not complete; `pysemi {self.command} --out {self.path} --resume` makes it"
                )
        return runs


def find_results(folders: Iterable[Path]) -> list[Results]:
    """The results in some folders and below them, in the order of their paths.

    Raises
    ------
    ResultsError
        If a folder does not exist or holds none.
    """
    found: dict[Path, Results] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"{folder} is not a folder")
        summaries = sorted(folder.rglob(SUMMARY))
        if not summaries:
            raise ResultsError(
                f"{folder} holds no results of `pysemi reproduce` (no {SUMMARY} in it or below it)"
            )
        for summary in summaries:
            found.setdefault(summary.parent.resolve(), Results.read(summary.parent))
    return list(found.values())
