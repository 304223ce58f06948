"""``pysemi reproduce``: run an experiment of the paper and show its table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from pysemi.errors import ArgumentError

if TYPE_CHECKING:
    from pysemi.experiments.run_directory import EpochRecord, RunConfig
    from pysemi.experiments.summary import Table

__all__ = ["ReproduceCommand", "reproduce"]

NORMS = ("default", "seminorm", "rms")


class ReproduceCommand(TyperCommand):
    """Lets ``--norm`` take several values: ``--norm default seminorm``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the arguments to the form Typer knows, one ``--norm`` per value."""
        return super().parse_args(ctx, _repeat_option(args, "--norm", NORMS))


def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The experiment.")] = None,
    preset: Annotated[str, typer.Option(help="Its scale.")] = "quick",
    backend: Annotated[str, typer.Option(help="torch, julia or auto.")] = "auto",
    norm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NORM [NORM ...]",
            help="Norms of the backward solve to train with: default, seminorm, rms.",
            show_default="default seminorm",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs per norm.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of one torch operation.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs.", show_default="results/NAME-PRESET")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what --out holds.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset."),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the experiments and their presets.")
    ] = False,
) -> None:
    """Train with each norm and show what the seminorm saves, beside the paper's numbers."""
    if list_:
        _list_experiments()
        return
    if name is None:
        raise ArgumentError("NAME", "missing; see `pysemi reproduce --list`")
    from pysemi.experiments import Plan, get_experiment
    from pysemi.experiments import reproduce as run

    experiment = get_experiment(name)
    changes = _changes(set_ or [])
    plan = Plan(
        experiment=experiment,
        preset_name=preset,
        preset=experiment.preset(preset).override(changes),
        backend=backend,
        norms=tuple(norm or ("default", "seminorm")),
        seeds=seeds,
        threads=threads,
        out=out or Path("results") / f"{name}-{preset}",
        resume=resume,
        command=_command(
            name, preset, backend, norm or ["default", "seminorm"], seeds, threads, changes
        ),
    )
    try:
        with _LiveProgress() as progress:
            outcome = run(plan, progress)
    except KeyboardInterrupt:
        typer.echo(f"Finished epochs are kept; add --resume to go on from {plan.out}.", err=True)
        raise
    from pysemi.experiments.summary import paper_table, step_table

    for table in (paper_table(outcome.rows, experiment.paper), step_table(outcome.rows)):
        _show_table(table)
    typer.echo(f"{outcome.summary}\n{outcome.report}")


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


def _command(
    name: str,
    preset: str,
    backend: str,
    norms: Sequence[str],
    seeds: int,
    threads: int,
    changes: Mapping[str, str],
) -> str:
    words = ["reproduce", name, "--preset", preset, "--backend", backend]
    words += ["--norm", *norms, "--seeds", str(seeds)]
    words += ["--threads", str(threads)] if threads != 1 else []
    for key, value in changes.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _list_experiments() -> None:
    from pysemi.experiments import all_experiments

    for experiment in all_experiments().values():
        typer.echo(f"{experiment.name}: {experiment.about}")
        width = max(map(len, experiment.presets))
        for preset_name, preset in experiment.presets.items():
            typer.echo(f"  --preset {preset_name.ljust(width)}  {preset.about}")


def _show_table(table: Table) -> None:
    import rich.table
    from rich import box
    from rich.console import Console

    shown = rich.table.Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    console = Console(highlight=False)
    with console.capture() as rendered:
        console.print(shown)
        for note in table.notes:
            console.print(note, soft_wrap=True)
    typer.echo(rendered.get())


class _LiveProgress:
    """A bar for the run at work, with its loss, metric and NFE; a line per finished run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        # On stderr, so that what is piped away is the result alone.
        console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar: Any = None
        self._loss = self._metric = "–"
        self._metric_name = ""
        self._nfe = 0

    def __enter__(self) -> _LiveProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bars.stop()

    def run_started(self, config: RunConfig, metric_name: str, batches: int, done: int) -> None:
        self._metric_name = metric_name
        self._loss = self._metric = "–"
        self._nfe = 0
        self._bars.start()
        self._bar = self._bars.add_task(
            f"{config.norm}, seed {config.seed}", total=batches, completed=done, state=""
        )

    def batch_ended(self, loss: float, backward_nfe: int) -> None:
        self._loss = f"{loss:.3f}"
        self._nfe += backward_nfe
        self._bars.update(self._bar, advance=1, state=self._state())

    def epoch_ended(self, epoch: EpochRecord) -> None:
        self._metric = f"{epoch.metric:.3f}"
        self._bars.update(self._bar, state=self._state())

    def run_ended(self, config: RunConfig, result: Mapping[str, Any]) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bars.stop()
            self._bar = None
        self._bars.console.print(
            f"{config.norm}, seed {config.seed}: {result['metric_name']} {result['metric']:.3f}, "
            f"{result['backward_nfe']:,} backward NFE, {result['accepted']:,} steps accepted, "
            f"{result['rejected']:,} rejected, {result['seconds']:.0f} s",
            soft_wrap=True,
        )

    def _state(self) -> str:
        return f"loss {self._loss}  {self._metric_name} {self._metric}  bwd. NFE {self._nfe:,}"
