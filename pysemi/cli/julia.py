"""``pysemi julia``: choosing, installing and inspecting the Julia that pysemi uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pysemi.cli.rows import show
from pysemi.errors import ArgumentError, BackendUnavailableError, PysemiError

if TYPE_CHECKING:
    from pysemi.kept import KeptCompilations
    from pysemi.runtime.kernels import KeptKernels
    from pysemi.runtime.location import FoundJulia
    from pysemi.runtime.probe import JuliaReport, PackageReport

__all__ = ["app", "describe_compilations", "describe_kernels", "julia_rows"]

_TORCH = "pysemi runs on its torch backend"
_USE_LOCAL = "To use a local Julia: pysemi julia use EXE --project DIR"

app = typer.Typer(help="Choose, install and inspect the Julia that pysemi uses.")


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Choose, install and inspect the Julia that pysemi uses."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which Julia pysemi would use, and what it holds.

    Ends with code 1 if there is one and it cannot be used.
    """
    found, report = _found()
    if as_json:
        source = None if found is None else found.source
        answer = {"source": source, **({} if report is None else report.as_dict())}
        typer.echo(json.dumps(answer, indent=2))
    elif found is None or report is None:
        typer.echo(f"no Julia is configured; {_TORCH}. {_USE_LOCAL}")
    else:
        show(julia_rows(found, report), [] if report.problem is None else [report.problem])
    if report is not None and not report.usable:
        raise typer.Exit(1)


@app.command()
def use(
    executable: Annotated[
        str, typer.Argument(metavar="EXE", help="A julia program: a path, or a name on PATH.")
    ],
    project: Annotated[
        str,
        typer.Option(
            "--project", metavar="DIR", help="Folder of the Julia project with pysemi's packages."
        ),
    ],
    depot: Annotated[
        str | None,
        typer.Option(
            "--depot", metavar="DIR", help="Julia's depot [default: JULIA_DEPOT_PATH, ~/.julia]."
        ),
    ] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Record it without asking it anything.")
    ] = False,
) -> None:
    """Use the Julia EXE with the packages of the project DIR from now on."""
    from pysemi.runtime.location import describe_julia, use_julia

    julia, report = use_julia(executable, project, depot, check=not no_check)
    version = None if report is None else report.version
    checked = "not checked" if report is None else "its packages were found"
    typer.echo(f"pysemi now uses {describe_julia(julia, version)} ({checked})")


@app.command()
def forget() -> None:
    """Forget the Julia chosen by `use` or `install`; nothing of it is removed."""
    from pysemi.config import forget_julia

    typer.echo("forgotten" if forget_julia() else "no Julia was configured")


@app.command()
def kernels(
    clear: Annotated[bool, typer.Option("--clear", help="Remove them.")] = False,
) -> None:
    """Say what compiled kernels are kept on disk for later processes."""
    from pysemi.runtime.kernels import KERNEL_CACHE_VARIABLE, clear_kernels, kept_kernels

    kept = clear_kernels() if clear else kept_kernels()
    if kept is None:
        typer.echo(f"no kernels are kept: {KERNEL_CACHE_VARIABLE} is off, or there is no home")
    else:
        typer.echo(f"{'removed: ' if clear else ''}{describe_kernels(kept)}")


@app.command()
def compilations(
    clear: Annotated[bool, typer.Option("--clear", help="Remove them.")] = False,
) -> None:
    """Say what compiled vector fields are kept on disk for later processes."""
    from pysemi.kept import (
        COMPILATION_CACHE_VARIABLE,
        clear_compilations,
        kept_compilations,
    )

    kept = clear_compilations() if clear else kept_compilations()
    if kept is None:
        typer.echo(
            f"no compilations are kept: {COMPILATION_CACHE_VARIABLE} is off, or there is no home"
        )
    else:
        typer.echo(f"{'removed: ' if clear else ''}{describe_compilations(kept)}")


@app.command()
def install(
    if_reachable: Annotated[
        bool,
        typer.Option(
            "--if-reachable", help="End with code 0 even if nothing can be installed from here."
        ),
    ] = False,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            metavar="DIR",
            help="Folder to install into [default: one in the user's data folder].",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Install even if a Julia is usable already.")
    ] = False,
) -> None:
    """Install a Julia with the packages that pysemi needs, and use it from now on.

    With --if-reachable whatever stands in the way is said in one line and the
    code is 0, so that a command chained after this one runs (on torch).
    """
    from pysemi.runtime.install import install_julia
    from pysemi.runtime.location import describe_julia

    unusable = ""
    try:
        if not force:
            found, report = _found()
            if found is not None and report is not None:
                if report.usable:
                    text = describe_julia(found.julia, report.version)
                    typer.echo(f"nothing to do: {text} is usable ({found.origin})")
                    return
                unusable = f", and the one {found.origin} cannot be used: {report.problem}"
        julia, report = install_julia(project, on_line=lambda line: typer.echo(line, err=True))
    except ArgumentError:
        raise
    except PysemiError as error:
        # One line, whatever was said: a reason may quote another program.
        text = f"no Julia installed: {' '.join(str(error).split())}{unusable}"
        if not if_reachable:
            raise BackendUnavailableError(f"{text}. {_USE_LOCAL}") from error
        typer.echo(f"{text}; {_TORCH}. {_USE_LOCAL}")
        return
    typer.echo(f"pysemi now uses {describe_julia(julia, report.version)} (its packages load)")


def julia_rows(found: FoundJulia, report: JuliaReport) -> list[tuple[str, str]]:
    """Return names and values that describe a Julia to a person."""
    rows = [
        ("Julia", f"{report.version or 'no answer'} ({found.origin})"),
        ("  executable", str(found.julia.executable)),
        ("  project", str(found.julia.project)),
    ]
    if found.julia.depot is not None:
        rows.append(("  depot", str(found.julia.depot)))
    if report.threads is not None:
        rows.append(("  threads", str(report.threads)))
    if report.blas is not None:
        rows.append(("  BLAS", report.blas))
    rows += [
        (f"  {package.name}", _package(package))
        for package in report.packages
        if package.required or package.version is not None
    ]
    return rows


def describe_kernels(kept: KeptKernels) -> str:
    """Say how many kernels are kept, and where."""
    models = f"{kept.packages} model{'' if kept.packages == 1 else 's'}"
    return f"those of {models}, {kept.size / 1e6:.1f} MB, in {kept.folder}"


def describe_compilations(kept: KeptCompilations) -> str:
    """Say how many compilations are kept, and where."""
    fields = f"{kept.count} vector field{'' if kept.count == 1 else 's'}"
    return f"{fields}, {kept.size / 1e6:.1f} MB, in {kept.folder}"


def _package(package: PackageReport) -> str:
    words = [package.version or "missing"]
    if package.loads:
        words.append("loads")
    if package.functional is not None:
        words.append("has a working GPU" if package.functional else "finds no working GPU")
    if package.problem is not None and not package.required:
        words.append(package.problem)
    return ", ".join(words)


def _found() -> tuple[FoundJulia | None, JuliaReport | None]:
    from pysemi.runtime.location import find_julia
    from pysemi.runtime.probe import probe

    found = find_julia()
    return found, None if found is None else probe(found.julia)
