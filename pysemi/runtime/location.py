"""Which Julia pysemi uses, and how the user chooses it.

There is one answer for the whole package: :func:`find_julia`. It looks and
never starts, downloads or resolves anything.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pysemi.config import JuliaConfig, read_julia, write_julia
from pysemi.errors import ArgumentError, ConfigurationError
from pysemi.runtime.environment import named_depot
from pysemi.runtime.probe import JuliaReport, probe, project_problem

__all__ = [
    "FoundJulia",
    "Source",
    "absolute_path",
    "describe_julia",
    "find_julia",
    "resolve_julia",
    "use_julia",
]

Source = Literal["running", "configured", "juliapkg"]

_SOURCES: dict[Source, str] = {
    "running": "already running in this process",
    "configured": "chosen by `pysemi julia use` or `install`",
    "juliapkg": "installed by juliapkg for this Python environment",
}


@dataclass(frozen=True)
class FoundJulia:
    """The Julia that pysemi would use, and where it was found.

    Attributes
    ----------
    julia : JuliaConfig
        The Julia.
    source : {"running", "configured", "juliapkg"}
        Whether juliacall runs it in this process already; or the user's
        configuration names it; or juliapkg installed it for this environment.
    """

    julia: JuliaConfig
    source: Source

    @property
    def origin(self) -> str:
        """Where it was found, in words."""
        return _SOURCES[self.source]


def find_julia() -> FoundJulia | None:
    """Return the Julia that pysemi would use, or None if there is none.

    A Julia that already runs in this process comes first: a process can hold
    only one. Then the user's choice, then what juliapkg has installed.

    Raises
    ------
    ConfigurationError
        If the user's configuration or juliapkg's cannot be understood.
    """
    running = _running()
    if running is not None:
        return FoundJulia(running, "running")
    configured = read_julia()
    if configured is not None:
        return FoundJulia(configured, "configured")
    resolved = _resolved_by_juliapkg()
    if resolved is not None:
        return FoundJulia(resolved, "juliapkg")
    return None


def use_julia(
    executable: str, project: str, depot: str | None = None, *, check: bool = True
) -> tuple[JuliaConfig, JuliaReport | None]:
    """Record the Julia that pysemi is to use from now on.

    Parameters
    ----------
    executable, project, depot
        As for :func:`resolve_julia`.
    check : bool
        Refuse a Julia that cannot be used as it is: no Julia at all, too old,
        or without a package that pysemi needs. Whether the packages load is
        not tried here, since a first load may take minutes to compile.

    Returns
    -------
    JuliaConfig
        What was recorded.
    JuliaReport or None
        What the Julia answered; None without ``check``.

    Raises
    ------
    ArgumentError
        If an argument names nothing that could be meant.
    ConfigurationError
        If the Julia cannot be used, or the configuration cannot be written.
    """
    julia = resolve_julia(executable, project, depot)
    report = None
    if check:
        report = probe(julia)
        if not report.usable:
            raise ConfigurationError(f"{report.problem}; --no-check records it all the same")
    write_julia(julia)
    return julia, report


def resolve_julia(executable: str, project: str, depot: str | None = None) -> JuliaConfig:
    """Turn what the user wrote into absolute paths.

    Parameters
    ----------
    executable : str
        A path, or the name of a program on ``PATH``. A link is kept as it is,
        so that it may be pointed at a newer Julia later.
    project : str
        An existing folder with a ``Project.toml`` or ``JuliaProject.toml``.
    depot : str, optional
        An existing folder. Without it the folder that ``JULIA_DEPOT_PATH``
        names at present is taken, if it names exactly one: the packages found
        now must be found later too.

    Raises
    ------
    ArgumentError
        If one of them is not what it should be.
    """
    program = _program(executable)
    folder = absolute_path(project)
    problem = project_problem(folder)
    if problem is not None:
        raise ArgumentError("--project", problem)
    chosen_depot = named_depot() if depot is None else depot
    if chosen_depot is None:
        return JuliaConfig(program, folder)
    depot_folder = absolute_path(chosen_depot)
    if not depot_folder.is_dir():
        name = "JULIA_DEPOT_PATH" if depot is None else "--depot"
        raise ArgumentError(name, f"{depot_folder} is not a folder")
    return JuliaConfig(program, folder, depot_folder)


def describe_julia(julia: JuliaConfig, version: str | None = None) -> str:
    """Return one line that names a Julia, its project and its depot."""
    name = "Julia" if version is None else f"Julia {version}"
    depot = "" if julia.depot is None else f", depot {julia.depot}"
    return f"{name} at {julia.executable}, project {julia.project}{depot}"


def _program(executable: str) -> Path:
    if not executable or "\0" in executable:
        raise ArgumentError("EXE", f"{executable!r} is not the name of a program")
    if os.path.basename(executable) == executable:  # noqa: PTH119 ("./julia" must keep its dot)
        on_path = shutil.which(executable)
        if on_path is not None:
            return absolute_path(on_path)
        if not Path(executable).exists():
            raise ArgumentError("EXE", f"no program {executable!r} on PATH or in this folder")
    program = absolute_path(executable)
    if not program.exists():
        what = "is a broken link" if program.is_symlink() else "does not exist"
        raise ArgumentError("EXE", f"{program} {what}")
    if program.is_dir():
        raise ArgumentError(
            "EXE", f"{program} is a folder; the program is usually {program / 'bin' / 'julia'}"
        )
    if not os.access(program, os.X_OK):
        raise ArgumentError("EXE", f"{program} is not executable by this user")
    return program


def absolute_path(path: str) -> Path:
    """Return ``path`` as absolute, without following links."""
    if "\0" in path:
        raise ArgumentError("path", f"{path!r} is not a path")
    absolute = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 (no home is no error)
    plain = Path(os.path.normpath(absolute))
    # "a/.." is not the same as "." where a is a link.
    same = plain.exists() and absolute.exists() and plain.samefile(absolute)
    return plain if same else absolute


def _running() -> JuliaConfig | None:
    juliacall = sys.modules.get("juliacall")
    settings: dict[str, Any] = getattr(juliacall, "CONFIG", {})
    executable, project = settings.get("exepath"), settings.get("project")
    if not settings.get("inited") or executable is None or project is None:
        return None
    return JuliaConfig(Path(executable), Path(project))


def _resolved_by_juliapkg() -> JuliaConfig | None:
    """Read what juliapkg recorded when it last resolved, if it ever did."""
    try:
        # Here, so that `import pysemi` never imports it. It reads the environment.
        from juliapkg.state import STATE

        record, project = Path(STATE["meta"]), Path(STATE["project"])
    except ImportError:
        return None
    except Exception as error:  # whatever juliapkg makes of a setting it cannot read
        raise ConfigurationError(f"juliapkg's settings cannot be read: {error}") from error
    try:
        executable = json.loads(record.read_text(encoding="utf-8"))["executable"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never resolved here; juliapkg too starts anew then
    if not isinstance(executable, str) or not Path(executable).is_file():
        return None
    if project_problem(project) is not None:
        return None
    return JuliaConfig(Path(executable), project)
