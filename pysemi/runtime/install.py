"""Installing a Julia and the packages pysemi loads, through juliapkg.

juliapkg, which juliacall uses too, finds or downloads a Julia and makes a project
for it. Left to itself it would gather the ``juliapkg.json`` of every package on
``sys.path`` (diffeqpy's alone brings ModelingToolkit and Sundials) and compile it
all. Here it runs

- with a project of pysemi's own (``PYTHON_JULIAPKG_PROJECT``), so neither
  juliapkg's record of this environment nor another package's project is touched;
- in a Python of its own, whose ``sys.path`` is cut down to a folder with pysemi's
  and juliacall's requirements and to what holds no requirements at all.

Both are juliapkg's documented inputs, and only its public ``resolve``,
``executable`` and ``project`` are called. So the project holds what pysemi
loads, and nothing else is compiled.

The configuration is written last, after the packages have been loaded once, by
the same function as for ``pysemi julia use``. On a failure the configuration and
the project's files are as they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pysemi.config import JuliaConfig, check_writable, data_dir, write_julia
from pysemi.errors import ArgumentError, BackendUnavailableError, ConfigurationError
from pysemi.runtime.environment import named_depot
from pysemi.runtime.location import absolute_path
from pysemi.runtime.probe import JuliaReport, error_line, probe
from pysemi.runtime.reachability import Site, why_unreachable
from pysemi.runtime.requirements import requirement_files
from pysemi.runtime.subprocesses import run_streamed

__all__ = ["install_julia"]

_VERSIONS = Site("https://julialang-s3.julialang.org/bin/versions.json", expected="{")
_PACKAGE_SERVER = "https://pkg.julialang.org"
#: With one of these on PATH juliapkg needs no list of versions to choose from.
_JULIA_PROGRAMS = ("julia", "juliaup")

#: The first load after an installation may compile what the installation did not.
_FIRST_LOAD_SECONDS = 1800.0

_DONE = "pysemi-installed "

#: Run by a second Python, with the folder of the requirements as its argument.
_INSTALL_PROGRAM = f"""\
import json
import pathlib
import sys
import juliapkg


def has_requirements(folder):
    folder = pathlib.Path(folder)
    return any(folder.glob("juliapkg.json")) or any(folder.glob("*/juliapkg.json"))


sys.path[:] = [
    sys.argv[1],
    *(entry for entry in sys.path if entry and not has_requirements(entry)),
]
sys.meta_path[:] = [
    finder
    for finder in sys.meta_path
    if not getattr(finder, "__module__", "").startswith("__editable__")
]
juliapkg.resolve(force=True)
print()
print({_DONE!r} + json.dumps([juliapkg.executable(), juliapkg.project()]), flush=True)
"""


def install_julia(
    project: str | None = None, *, on_line: Callable[[str], None]
) -> tuple[JuliaConfig, JuliaReport]:
    """Install a Julia with pysemi's packages and record it as the one to use.

    Parameters
    ----------
    project : str, optional
        Folder for the project, and for Julia itself where none is on ``PATH``;
        by default one in :func:`pysemi.config.data_dir`.
    on_line : callable
        Called with each line of progress.

    Raises
    ------
    BackendUnavailableError
        If the network is closed, or the installation fails.
    ConfigurationError
        If its result could not be stored or recorded.
    ArgumentError
        If ``project`` cannot be a folder.
    """
    check_writable()
    closed = _why_closed()
    if closed is not None:
        raise BackendUnavailableError(closed)
    folder = _made_folder(project)
    with _restored_on_failure(folder):
        julia = _resolve(folder, on_line)
        on_line("Loading the packages once, as pysemi will")
        report = probe(julia, deep=True, load_seconds=_FIRST_LOAD_SECONDS)
        if not report.usable:
            raise BackendUnavailableError(f"what was installed cannot be used: {report.problem}")
    write_julia(julia)
    return julia, report


def _made_folder(project: str | None) -> Path:
    folder = data_dir() / "julia" if project is None else absolute_path(project)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{folder} cannot be made a folder: {error.strerror}"
        if project is None:
            raise ConfigurationError(f"{problem}; name another one with --project DIR") from error
        raise ArgumentError("--project", problem) from error
    return folder


def _why_closed() -> str | None:
    """Say why nothing can be downloaded, or return None if it can."""
    for variable, value in (("PYTHON_JULIAPKG_OFFLINE", "yes"), ("JULIA_PKG_OFFLINE", "true")):
        if os.environ.get(variable) == value:
            return f"Julia's package servers cannot be reached ({variable} is {value!r})"
    server = os.environ.get("JULIA_PKG_SERVER", _PACKAGE_SERVER)
    if not server:  # Julia's way of asking for plain git
        sites = [Site("https://github.com/JuliaRegistries/General")]
    else:
        if "://" not in server:
            server = f"https://{server}"
        sites = [Site(f"{server.rstrip('/')}/registries", expected="/registry/")]
    has_julia = os.environ.get("PYTHON_JULIAPKG_EXE") or any(map(shutil.which, _JULIA_PROGRAMS))
    if not has_julia:
        sites.insert(0, _VERSIONS)
    return why_unreachable(sites)


def _resolve(project: Path, on_line: Callable[[str], None]) -> JuliaConfig:
    """Let juliapkg make ``project``, and return the Julia it chose."""
    answer: list[str] = []

    def sift(line: str) -> None:
        if line.startswith(_DONE):
            answer.append(line.removeprefix(_DONE))
        elif line:
            on_line(line)

    with tempfile.TemporaryDirectory(prefix="pysemi-requirements-") as requirements:
        for package, file in requirement_files().items():
            copy = Path(requirements, package, "juliapkg.json")
            copy.parent.mkdir()
            copy.write_bytes(file.read_bytes())
        outcome = run_streamed(
            [sys.executable, "-c", _INSTALL_PROGRAM, requirements],
            on_line=sift,
            environment={
                "PYTHON_JULIAPKG_PROJECT": str(project),
                "PYTHONUNBUFFERED": "1",  # progress as it is made
                "JULIA_CONDAPKG_BACKEND": "Null",
                "JULIA_PYTHONCALL_EXE": sys.executable,
            },
        )
    if outcome.returncode != 0 or not answer:
        raise BackendUnavailableError(
            f"the installation {outcome.describe_end()}, and said {error_line(outcome.stdout)}"
        )
    executable, resolved = json.loads(answer[-1])
    depot = named_depot()
    return JuliaConfig(
        Path(executable).absolute(),
        Path(resolved),
        None if depot is None else Path(depot).absolute(),
    )


@contextlib.contextmanager
def _restored_on_failure(project: Path) -> Iterator[None]:
    """Put the project's files back as they were if what follows fails."""
    names = ("Project.toml", "JuliaProject.toml", "Manifest.toml", "JuliaManifest.toml")
    before = {
        path: path.read_bytes() if path.is_file() else None
        for path in (project / name for name in names)
    }
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        raise
