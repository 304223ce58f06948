"""The application: its commands, and how each ends.

==== =====================================================================
Code Meaning
==== =====================================================================
0    done
1    could not be done: one line on stderr says why
2    the command line makes no sense: one line on stderr says why
130  stopped by Ctrl-C
141  the reader of the output went away (``pysemi ... | head``)
==== =====================================================================

An unexpected exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.main

import pysemi
from pysemi.cli import bench, compare, doctor, julia, report, reproduce
from pysemi.errors import ArgumentError, PysemiError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train PyTorch neural differential equations with Julia's solvers.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.add_typer(julia.app, name="julia")
app.command("compare")(compare.compare)
app.command("bench", context_settings=bench.CONTEXT)(bench.bench)
app.command("report")(report.report)
app.command("reproduce", cls=reproduce.ReproduceCommand)(reproduce.reproduce)

# A command line that makes no sense. Typer exports only this class's child, and
# where it is defined depends on Typer's version.
_UsageError: Any = typer.BadParameter.__base__


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Train PyTorch neural differential equations with Julia's solvers."""
    if version:
        typer.echo(f"pysemi {pysemi.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the program's name; by default the process's own.
    """
    _make_streams_safe()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # here, so that a lost reader is noticed here
    except _UsageError as error:
        return _fail(error.format_message(), 2)
    except ArgumentError as error:
        return _fail(str(error), 2)
    except PysemiError as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        print("pysemi: stopped", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at its end; let that go nowhere. (A stream
        # that is no file, as in tests, has no such end.)
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _run(argv: Sequence[str]) -> int:
    # Not through the application's own main(), which turns some exceptions into
    # boxes of text and others into exit codes of its own.
    command = typer.main.get_command(app)
    try:
        with command.make_context("pysemi", list(argv)) as context:
            command.invoke(context)
    except typer.Exit as request:
        return request.exit_code
    return 0


def _fail(message: str, code: int) -> int:
    print(f"pysemi: error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code


def _make_streams_safe() -> None:
    """Make printing possible where a stream is closed or cannot show a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
