"""An experiment from start to report: every variant, arm and seed, one folder each."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysemi.atomic import write_json
from pysemi.backends import settle_backend
from pysemi.errors import ArgumentError, MissingExtraError, ResumeError
from pysemi.experiments.environment import describe_environment
from pysemi.experiments.experiment import Experiment
from pysemi.experiments.jobs import Job, make_runs
from pysemi.experiments.preset import Preset
from pysemi.experiments.progress import Progress
from pysemi.experiments.report import sections_of, write_page
from pysemi.experiments.results import SUMMARY, Results
from pysemi.experiments.run_directory import RunConfig, RunDirectory

__all__ = ["Outcome", "Plan", "check_extra", "reproduce"]

NEEDED = (
    "torchcde",
    "matplotlib",
    "jinja2",
    "sklearn",
    "aeon",
    "librosa",
    "pooch",
    "requests",
    "filelock",
)
"""What the extra ``experiments`` brings."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run, and where to put it.

    Attributes
    ----------
    experiment : Experiment
    preset_name : str
    preset : Preset
        The preset of that name, perhaps with some settings changed.
    backend : {"auto", "torch", "julia"}
    arms : sequence of str
        Of the experiment's ``known_arms``.
    variants : sequence of str
        Of the preset; all of them if empty.
    seeds : int
        Runs of each variant and arm, with seeds 0, 1, ...
    out : Path
    resume : bool
        Continue what ``out`` holds, rather than refuse to touch it.
    threads : int
        Threads of one torch operation. One is as fast as more for small models,
        suffers no slow neighbours, and makes the results independent of the
        machine's number of cores.
    jobs : int
        Runs made at once, each in a process of its own.
    command : str
        The command line's arguments, for the report.
    """

    experiment: Experiment
    preset_name: str
    preset: Preset
    backend: str
    arms: Sequence[str]
    variants: Sequence[str] = ()
    seeds: int
    out: Path
    resume: bool
    threads: int = 1
    jobs: int = 1
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes
    ----------
    results : Results
    summary, report : Path
    """

    results: Results
    summary: Path
    report: Path


def reproduce(plan: Plan, progress: Progress) -> Outcome:
    """Make the runs that are not yet complete, then write ``summary.json`` and ``report.html``.

    Raises
    ------
    ArgumentError
        For an arm, a variant or a number of seeds that makes no sense.
    ResumeError
        If ``out`` holds runs and ``resume`` was not asked for, or holds runs of
        other settings.
    MissingExtraError
        If a package that the experiments need is not installed.
    BackendUnavailableError, DataError, SolveError, WorkerError
        From the backend, the data, the solves, and processes of ``jobs``.
    """
    _check(plan)
    backend = settle_backend(plan.backend)
    environment = {**describe_environment(), "torch_threads": plan.threads}
    variants = {
        name: plan.preset.variant(name) for name in plan.variants or plan.preset.variants or ("",)
    }
    pending = [
        Job(plan.experiment, config, variants[config.variant], _directory(plan, config))
        for config in _configurations(plan, variants, backend)
    ]
    for job in pending:  # all of them, before the first takes its time
        if job.directory.exists:
            job.directory.start(job.config, environment)
    facts: dict[str, str] = {}
    for preset in variants.values():
        facts |= plan.experiment.check(preset)
    _make_folder(plan.out)
    unfinished = []
    for job in pending:
        if (result := job.directory.result) is None:
            job.directory.start(job.config, environment)
            unfinished.append(job)
        else:
            progress.run_ended(job.config, result)
    make_runs(unfinished, plan.jobs, progress)
    results = Results(
        path=plan.out,
        experiment=plan.experiment.name,
        preset=plan.preset_name,
        backend=backend,
        command=plan.command,
        facts=facts,
        environment=environment,
        rows=[_result(job) for job in pending],
        folders=[str(job.directory.path.relative_to(plan.out)) for job in pending],
    )
    write_json(plan.out / SUMMARY, results.summary())
    sections = sections_of([results], {plan.experiment.name: plan.experiment})
    report = write_page(plan.out / "report.html", sections)
    return Outcome(results, plan.out / SUMMARY, report)


def check_extra() -> None:
    """Refuse to begin without the packages that the experiments need.

    Raises
    ------
    MissingExtraError
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"experiments need {', '.join(missing)}; run pip install 'pysemi[experiments]'"
        )


def _result(job: Job) -> Mapping[str, Any]:
    result = job.directory.result
    assert result is not None  # it was made, or an error was raised
    return result


def _directory(plan: Plan, config: RunConfig) -> RunDirectory:
    return RunDirectory(plan.out / "runs" / config.folder)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ArgumentError("--out", f"{out} cannot be written to ({error.strerror})") from error


def _check(plan: Plan) -> None:
    check_extra()
    if not plan.arms or len(set(plan.arms)) != len(plan.arms):
        raise ArgumentError("--norm", "give at least one norm, and each only once")
    for arm in plan.arms:
        if arm not in plan.experiment.known_arms:
            raise ArgumentError(
                "--norm", f"{arm!r} is not one of {', '.join(plan.experiment.known_arms)}"
            )
    if len(set(plan.variants)) != len(plan.variants):
        raise ArgumentError("--variant", "give each only once")
    numbers = (("--seeds", plan.seeds), ("--threads", plan.threads), ("--jobs", plan.jobs))
    for option, number in numbers:
        if number < 1:
            raise ArgumentError(option, f"{number}; give at least 1")
    if plan.out.exists() and not plan.out.is_dir():
        raise ArgumentError("--out", f"{plan.out} is a file; give a folder")
    if (plan.out / "runs").exists() and not plan.resume:
        raise ResumeError(
            f"{plan.out} holds runs already; add --resume to continue or complete them, or choose "
            "another --out"
        )


def _configurations(plan: Plan, variants: Mapping[str, Preset], backend: str) -> list[RunConfig]:
    # Seeds outside: after each round every variant and arm has as many runs as the others.
    return [
        RunConfig(
            experiment=plan.experiment.name,
            preset=plan.preset_name,
            variant=variant,
            settings=preset.settings(),
            arm=arm,
            seed=seed,
            backend=backend,
            threads=plan.threads,
        )
        for seed in range(plan.seeds)
        for variant, preset in variants.items()
        for arm in plan.arms
    ]
