"""``pysemi reproduce``: run an experiment of the paper and show its tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from pysemi.cli.live_progress import LiveProgress
from pysemi.cli.tables import show_table
from pysemi.errors import ArgumentError, PysemiError

if TYPE_CHECKING:
    from pysemi.experiments import Experiment, Outcome, Plan

__all__ = ["ReproduceCommand", "reproduce"]

ARMS = ("default", "seminorm", "rms", "no-log-density", "published", "every-adjoint")
"""What any experiment compares; known here without importing torch."""

ALL = "all"


class ReproduceCommand(TyperCommand):
    """Lets ``--norm`` take several values: ``--norm default seminorm``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the arguments to the form Typer knows, one ``--norm`` per value."""
        return super().parse_args(ctx, _repeat_option(args, "--norm", ARMS))


@dataclass(frozen=True)
class _Wish:
    """What the command line asks of each experiment; None where the experiment decides."""

    preset: str
    backend: str
    arms: tuple[str, ...] | None
    variants: tuple[str, ...]
    seeds: int | None
    threads: int
    jobs: int
    resume: bool
    changes: Mapping[str, str]


def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The experiment, or 'all'.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Its scale.")] = "quick",
    backend: Annotated[str, typer.Option(help="torch, julia or auto.")] = "auto",
    norm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NORM [NORM ...]",
            help="What to compare: norms of the backward solve, as --list shows them.",
            show_default="as --list says, mostly default seminorm",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this row of the table; may be repeated."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each kind.", show_default="the preset's")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of one torch operation.")] = 1,
    jobs: Annotated[int, typer.Option(help="Runs at once, each in its own process.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the runs; of all experiments' folders for 'all'.",
            show_default="results/NAME-PRESET-BACKEND; results for 'all'",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what --out holds.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset."),
    ] = None,
    from_: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="For table-4 and figure-6: where the recorded runs are; may be repeated.",
            show_default="results",
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the experiments, their presets and norms.")
    ] = False,
) -> None:
    """Train with each norm and show what the seminorm saves, beside the paper's numbers.

    NAME 'all' runs every experiment that has the preset, and ends with one report.
    """
    if list_:
        _list_experiments()
        return
    if name is None:
        raise ArgumentError("NAME", "missing; see `pysemi reproduce --list`")
    from pysemi.experiments.recorded import RECORDED

    if name in RECORDED:
        _show_recorded(name, from_ or [Path("results")], out)
        return
    if from_:
        raise ArgumentError("--from", f"is for {' and '.join(RECORDED)}; {name} makes its own runs")
    wish = _Wish(
        preset,
        backend,
        tuple(norm) if norm else None,
        tuple(variant or ()),
        seeds,
        threads,
        jobs,
        resume,
        _changes(set_ or []),
    )
    if name == ALL:
        _reproduce_all(wish, out or Path("results"))
        return
    from pysemi.experiments import get_experiment

    plan = _plan(get_experiment(name), wish, out)
    outcome = _run(plan)
    _show(plan.experiment, outcome)
    typer.echo(f"{outcome.summary}\n{outcome.report}")


def _plan(experiment: Experiment, wish: _Wish, out: Path | None) -> Plan:
    from pysemi.backends import settle_backend
    from pysemi.experiments import Plan

    preset = experiment.preset(wish.preset).override(wish.changes)
    arms = wish.arms or tuple(experiment.arms)
    seeds = preset.seeds if wish.seeds is None else wish.seeds
    backend = settle_backend(wish.backend)
    return Plan(
        experiment=experiment,
        preset_name=wish.preset,
        preset=preset,
        backend=backend,
        arms=arms,
        variants=wish.variants,
        seeds=seeds,
        threads=wish.threads,
        jobs=wish.jobs,
        out=out or Path("results") / f"{experiment.name}-{wish.preset}-{backend}",
        resume=wish.resume,
        command=_command(experiment.name, wish, backend, arms, seeds),
    )


def _run(plan: Plan) -> Outcome:
    from pysemi.experiments import reproduce as run

    try:
        with LiveProgress() as progress:
            return run(plan, progress)
    except KeyboardInterrupt:
        typer.echo(f"Finished epochs are kept; add --resume to go on from {plan.out}.", err=True)
        raise


def _reproduce_all(wish: _Wish, out: Path) -> None:
    """Run every experiment that has the preset; go on where one cannot be run, and say so."""
    from pysemi.backends import settle_backend
    from pysemi.experiments import all_experiments
    from pysemi.experiments.recorded import further_sections
    from pysemi.experiments.report import sections_of, write_page

    if wish.arms or wish.variants or wish.changes:
        raise ArgumentError(
            "all", "--norm, --variant and --set are one experiment's; name that experiment"
        )
    experiments = all_experiments()
    backend = settle_backend(wish.backend)
    plans = [
        _plan(experiment, wish, out / f"{experiment.name}-{wish.preset}-{backend}")
        for experiment in experiments.values()
        if wish.preset in experiment.presets
    ]
    if not plans:
        raise ArgumentError("--preset", f"no experiment has a preset {wish.preset!r}")
    results = []
    failures = []
    for plan in plans:
        name = plan.experiment.name
        typer.echo(f"{name}:", err=True)
        try:
            outcome = _run(plan)
        except PysemiError as error:
            failures.append(f"{name} ({error})")
            typer.echo(f"{name} could not be run: {error}", err=True)
            continue
        results.append(outcome.results)
        _show(plan.experiment, outcome)
    if results:
        sections = [*sections_of(results, experiments), *further_sections(results)]
        typer.echo(write_page(out / "report.html", sections))
    if failures:
        raise PysemiError(
            f"{len(failures)} of {len(plans)} experiments could not be run: {'; '.join(failures)}"
        )


def _show(experiment: Experiment, outcome: Outcome) -> None:
    for table in experiment.section(outcome.results.runs()).tables:
        show_table(table)


def _show_recorded(name: str, folders: Sequence[Path], out: Path | None) -> None:
    from pysemi.experiments.recorded import RECORDED
    from pysemi.experiments.report import write_page
    from pysemi.experiments.results import find_results

    section = RECORDED[name].make(find_results(folders))
    for table in section.tables:
        show_table(table)
    page = (out or Path("results")) / f"{name}.html"
    typer.echo(write_page(page, [section]))


def _repeat_option(args: Sequence[str], option: str, values: Sequence[str]) -> list[str]:
    """Turn ``option a b`` into ``option a option b``, as long as ``values`` follow."""
    rewritten: list[str] = []
    follows = False
    for arg in args:
        if follows and arg in values and rewritten[-1] != option:
            rewritten += [option, arg]
            continue
        follows = arg == option or (follows and bool(rewritten) and rewritten[-1] == option)
        rewritten.append(arg)
    return rewritten


def _changes(assignments: Sequence[str]) -> dict[str, str]:
    changes = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ArgumentError("--set", f"{assignment!r} is not of the form KEY=VALUE")
        changes[key.strip().replace("-", "_")] = value.strip()
    return changes


def _command(name: str, wish: _Wish, backend: str, arms: Sequence[str], seeds: int) -> str:
    words = ["reproduce", name, "--preset", wish.preset, "--backend", backend]
    words += ["--norm", *arms, "--seeds", str(seeds)]
    for variant in wish.variants:
        words += ["--variant", variant]
    words += ["--threads", str(wish.threads)] if wish.threads != 1 else []
    words += ["--jobs", str(wish.jobs)] if wish.jobs != 1 else []
    for key, value in wish.changes.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _list_experiments() -> None:
    from pysemi.experiments import all_experiments
    from pysemi.experiments.recorded import RECORDED

    for experiment in all_experiments().values():
        typer.echo(f"{experiment.name}: {experiment.about}")
        width = max(map(len, experiment.presets))
        for preset_name, preset in experiment.presets.items():
            typer.echo(f"  --preset {preset_name.ljust(width)}  {preset.about}")
            if preset.variants:
                typer.echo(f"  {'':{width + 9}}  variants: {', '.join(preset.variants)}")
        typer.echo(f"  --norm {' '.join(experiment.arms)}")
    for recorded in RECORDED.values():
        typer.echo(f"{recorded.name}: {recorded.about}")
