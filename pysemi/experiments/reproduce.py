"""An experiment from start to report: every norm and every seed, one folder each."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pysemi.atomic import write_json
from pysemi.backends import settle_backend
from pysemi.errors import ArgumentError, MissingExtraError, ResumeError
from pysemi.experiments.environment import describe_environment
from pysemi.experiments.experiment import Experiment
from pysemi.experiments.preset import Preset
from pysemi.experiments.report import write_report
from pysemi.experiments.run_directory import RunConfig, RunDirectory
from pysemi.experiments.task import Task
from pysemi.experiments.training import Progress, train

__all__ = ["NORMS", "Outcome", "Plan", "reproduce"]

NEEDED = ("torchcde", "matplotlib", "jinja2", "aeon", "librosa", "pooch")
"""What the extra ``experiments`` brings."""

NORMS = ("default", "seminorm", "rms")
"""Norms of the backward solve that a run can be trained with."""


@dataclass(frozen=True)
class Plan:
    """What to run, and where to put it.

    Attributes
    ----------
    experiment : Experiment
    preset_name : str
    preset : Preset
        The preset of that name, perhaps with some settings changed.
    backend : {"auto", "torch", "julia"}
    norms : sequence of str
        Of :data:`NORMS`.
    seeds : int
        Runs per norm, with seeds 0, 1, ...
    threads : int
        Threads of one torch operation. One is as fast as more for small models,
        suffers no slow neighbours, and makes the results independent of the
        machine's number of cores.
    out : Path
    resume : bool
        Continue what ``out`` holds, rather than refuse to touch it.
    command : str
        The command line's arguments, for the report.
    """

    experiment: Experiment
    preset_name: str
    preset: Preset
    backend: str
    norms: Sequence[str]
    seeds: int
    out: Path
    resume: bool
    threads: int = 1
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes
    ----------
    rows : list of dict
        One per run, as in ``summary.json``.
    summary, report : Path
    """

    rows: list[dict[str, Any]]
    summary: Path
    report: Path


def reproduce(plan: Plan, progress: Progress) -> Outcome:
    """Run what is not yet complete, then write ``summary.json`` and ``report.html``.

    Raises
    ------
    ArgumentError
        For a norm or a number of seeds that makes no sense.
    ResumeError
        If ``out`` holds runs and ``resume`` was not asked for, or holds runs of
        other settings.
    MissingExtraError
        If a package that the experiments need is not installed.
    BackendUnavailableError, DataError, SolveError
        From the backend, the data and the solves.
    """
    _check(plan)
    backend = settle_backend(plan.backend)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        return _reproduce(plan, backend, progress)
    finally:
        torch.set_num_threads(threads_before)


def _reproduce(plan: Plan, backend: str, progress: Progress) -> Outcome:
    environment = describe_environment()
    pending = [
        (config, RunDirectory(plan.out / "runs" / config.label))
        for config in _configurations(plan, backend)
    ]
    for config, directory in pending:  # all of them, before the first takes its time
        if directory.exists:
            directory.start(config, environment)
    task = plan.experiment.load(plan.preset)
    task.model({})  # settings that make no model are refused before anything is written
    _make_folder(plan.out)
    rows = []
    runs: dict[str, list[RunDirectory]] = {}
    for config, directory in pending:
        result = directory.result
        if result is None:
            directory.start(config, environment)
            result = train(task, config, directory, progress)
        else:
            progress.run_ended(config, result)
        rows.append(result)
        runs.setdefault(config.norm, []).append(directory)
    summary = plan.out / "summary.json"
    write_json(summary, _summary(plan, task, rows, environment))
    report = write_report(
        plan.out, plan.experiment, rows, runs, describe_environment(), task.split, plan.command
    )
    return Outcome(rows, summary, report)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ArgumentError("--out", f"{out} cannot be written to ({error.strerror})") from error


def _check(plan: Plan) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"experiments need {', '.join(missing)}; run pip install 'pysemi[experiments]'"
        )
    if not plan.norms or len(set(plan.norms)) != len(plan.norms):
        raise ArgumentError("--norm", "give at least one norm, and each only once")
    for norm in plan.norms:
        if norm not in NORMS:
            raise ArgumentError("--norm", f"{norm!r} is not one of {', '.join(NORMS)}")
    for option, number in (("--seeds", plan.seeds), ("--threads", plan.threads)):
        if number < 1:
            raise ArgumentError(option, f"{number}; give at least 1")
    if plan.out.exists() and not plan.out.is_dir():
        raise ArgumentError("--out", f"{plan.out} is a file; give a folder")
    if (plan.out / "runs").exists() and not plan.resume:
        raise ResumeError(
            f"{plan.out} holds runs already; add --resume to continue or complete them, or choose "
            "another --out"
        )


def _configurations(plan: Plan, backend: str) -> list[RunConfig]:
    # Seeds outside: after each round every norm has as many runs as the others.
    return [
        RunConfig(
            experiment=plan.experiment.name,
            preset=plan.preset_name,
            settings=plan.preset.settings(),
            norm=norm,
            seed=seed,
            backend=backend,
            threads=plan.threads,
        )
        for seed in range(plan.seeds)
        for norm in plan.norms
    ]


def _summary(
    plan: Plan,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "experiment": plan.experiment.name,
        "preset": plan.preset_name,
        "settings": plan.preset.settings(),
        "split": task.split,
        "environment": environment,
        "rows": rows,
    }
