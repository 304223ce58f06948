"""``pysemi bench``: pysemi beside other packages, by the script in ``benchmarks/``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import typer

from pysemi.errors import ConfigurationError

__all__ = ["CONTEXT", "bench", "benchmark_script"]

# Every argument is the script's, --help too.
CONTEXT = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Time training steps beside torchdiffeq, Diffrax and torchode (--help says more)."""
    ended = subprocess.run([sys.executable, str(benchmark_script()), *context.args], check=False)
    raise typer.Exit(ended.returncode)


def benchmark_script() -> Path:
    """The script: inside the installed package, or beside it.

    Raises
    ------
    ConfigurationError
        If it is in neither place.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "benchmarks", package.parent / "benchmarks"):
        script = folder / "bench.py"
        if script.is_file():
            return script
    raise ConfigurationError(
        f"the benchmark is not where it was installed ({package / 'benchmarks'}); reinstall pysemi"
    )
