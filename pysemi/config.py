"""The user's configuration: which Julia pysemi uses.

One JSON file, ``config.json``, in a folder of the user's. Only what the user
chose lives here; whether that choice works is found out by
:mod:`pysemi.runtime.probe`. Importing this module imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pysemi.atomic import write_json
from pysemi.errors import ConfigurationError, describe

__all__ = [
    "CACHE_DIR_VARIABLE",
    "CONFIG_DIR_VARIABLE",
    "JuliaConfig",
    "cache_dir",
    "check_writable",
    "config_dir",
    "config_file",
    "data_dir",
    "forget_julia",
    "kept_folder",
    "read_julia",
    "remove_kept",
    "write_julia",
]

#: Names the folder of the configuration file in place of the platform's own.
CONFIG_DIR_VARIABLE = "PYSEMI_CONFIG_DIR"

#: Names the folder of what can be made again in place of the platform's own.
CACHE_DIR_VARIABLE = "PYSEMI_CACHE_DIR"

_SET_CONFIG_DIR = f"set {CONFIG_DIR_VARIABLE} to a folder that can be written to"


@dataclass(frozen=True)
class JuliaConfig:
    """A Julia, and the project and depot it is to be started with.

    Attributes
    ----------
    executable : Path
        The ``julia`` program.
    project : Path
        Folder of the project that holds the packages pysemi loads.
    depot : Path or None
        Julia's depot (installed packages and compiled code); None leaves the
        choice to Julia, that is to ``JULIA_DEPOT_PATH`` or ``~/.julia``.
    """

    executable: Path
    project: Path
    depot: Path | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return the three paths as strings, as they are written to JSON."""
        return {
            "executable": str(self.executable),
            "project": str(self.project),
            "depot": None if self.depot is None else str(self.depot),
        }


def config_dir() -> Path:
    r"""Return the folder of the configuration file, which need not exist.

    It is ``$PYSEMI_CONFIG_DIR`` if that is set, else the platform's place for a
    program's settings: ``$XDG_CONFIG_HOME/pysemi`` or ``~/.config/pysemi`` on
    Linux, ``~/Library/Application Support/pysemi`` on macOS, and
    ``%APPDATA%\pysemi`` on Windows.

    Raises
    ------
    ConfigurationError
        If this user has no home folder and no variable names another.
    """
    chosen = os.environ.get(CONFIG_DIR_VARIABLE)
    if chosen:
        return Path(_expand_home(chosen, _SET_CONFIG_DIR)).absolute()
    return _application_dir("XDG_CONFIG_HOME", "~/.config", "APPDATA", _SET_CONFIG_DIR)


def data_dir() -> Path:
    r"""Return the folder for what pysemi installs (a Julia), which need not exist.

    It is ``$XDG_DATA_HOME/pysemi`` or ``~/.local/share/pysemi`` on Linux,
    ``~/Library/Application Support/pysemi`` on macOS, and
    ``%LOCALAPPDATA%\pysemi`` on Windows.

    Raises
    ------
    ConfigurationError
        If this user has no home folder and no variable names another.
    """
    remedy = "name a folder that can be written to, with --project DIR"
    return _application_dir("XDG_DATA_HOME", "~/.local/share", "LOCALAPPDATA", remedy)


def cache_dir() -> Path:
    r"""Return the folder for what can be made again, which need not exist.

    It is ``$PYSEMI_CACHE_DIR`` if that is set, else ``$XDG_CACHE_HOME/pysemi`` or
    ``~/.cache/pysemi`` on Linux, ``~/Library/Caches/pysemi`` on macOS, and
    ``%LOCALAPPDATA%\pysemi\Cache`` on Windows.

    Raises
    ------
    ConfigurationError
        If this user has no home folder and no variable names another.
    """
    remedy = f"set {CACHE_DIR_VARIABLE} to a folder that can be written to"
    chosen = os.environ.get(CACHE_DIR_VARIABLE)
    if chosen:
        return Path(_expand_home(chosen, remedy)).absolute()
    if sys.platform == "darwin":
        return Path(_expand_home("~/Library/Caches", remedy)) / "pysemi"
    folder = _application_dir("XDG_CACHE_HOME", "~/.cache", "LOCALAPPDATA", remedy)
    return folder / "Cache" if sys.platform == "win32" else folder


def config_file() -> Path:
    """Return the path of the configuration file, which need not exist."""
    return config_dir() / "config.json"


def read_julia() -> JuliaConfig | None:
    """Return the Julia recorded by ``pysemi julia use``, or None if none is.

    Raises
    ------
    ConfigurationError
        If the file is there but cannot be read or understood.
    """
    try:
        path = config_file()
    except ConfigurationError:  # no home folder: nothing can have been recorded in it
        return None
    section = _read(path).get("julia")
    if section is None:
        return None
    if not isinstance(section, dict):
        _corrupt(path, f'"julia" is {describe(section)}, not an object')
    depot = section.get("depot")
    return JuliaConfig(
        executable=_recorded_path(path, "executable", section.get("executable")),
        project=_recorded_path(path, "project", section.get("project")),
        depot=None if depot is None else _recorded_path(path, "depot", depot),
    )


def write_julia(julia: JuliaConfig) -> Path:
    """Record ``julia`` as the one to use, and return the path of the file.

    The file is replaced as a whole or not at all. What it holds beside the
    three paths is kept.

    Raises
    ------
    ConfigurationError
        If the file cannot be written, or the present one cannot be understood.
    """
    path = config_file()
    content = _read(path)
    section = content.get("julia")
    kept = section if isinstance(section, dict) else {}
    content["julia"] = {**kept, **julia.as_dict()}
    _write(path, content)
    return path


def check_writable() -> None:
    """Find out now whether a Julia could be recorded, before a long installation.

    Raises
    ------
    ConfigurationError
        If the file could not be written, or the present one cannot be understood.
    """
    path = config_file()
    _read(path)
    with _explained(path):
        folder = path.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def forget_julia() -> bool:
    """Remove the recorded Julia, and return whether there was one.

    Raises
    ------
    ConfigurationError
        If the file cannot be written, or the present one cannot be understood.
    """
    try:
        path = config_file()
    except ConfigurationError:  # as in read_julia
        return False
    content = _read(path)
    if "julia" not in content:
        return False
    del content["julia"]
    _write(path, content)
    return True


def _expand_home(path: str, remedy: str) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111 (Path.expanduser raises for no home)
    if expanded.startswith("~"):
        raise ConfigurationError(f"{path}: this user has no home folder; {remedy}")
    return expanded


def kept_folder(name: str, variable: str) -> Path | None:
    """The folder of that name in :func:`cache_dir`, which need not exist.

    None where the environment's ``variable`` says "off", or there is no home folder: then
    every process does without.
    """
    if os.environ.get(variable, "").lower() in ("off", "0", "no", "false"):
        return None
    try:
        return cache_dir() / name
    except ConfigurationError:
        return None


def remove_kept(folder: Path) -> None:
    """Remove a :func:`kept_folder`, if it is there.

    Raises
    ------
    ConfigurationError
        If it cannot be removed.
    """
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be removed: {error.strerror or error}; remove it by hand"
        ) from error


def _application_dir(
    xdg_variable: str, xdg_default: str, windows_variable: str, remedy: str
) -> Path:
    if sys.platform == "win32":
        folder = os.environ.get(windows_variable) or _expand_home("~", remedy)
    elif sys.platform == "darwin":
        folder = _expand_home("~/Library/Application Support", remedy)
    else:
        folder = os.environ.get(xdg_variable, "")
        # The XDG specification asks for relative values to be ignored.
        if not os.path.isabs(folder):  # noqa: PTH117 (it is a string from outside)
            folder = _expand_home(xdg_default, remedy)
    return Path(folder) / "pysemi"


def _corrupt(path: Path, what: str) -> NoReturn:
    raise ConfigurationError(
        f"{path} is not a pysemi configuration: {what}; repair it, or remove it and run "
        "`pysemi julia use EXE --project DIR` again"
    )


def _recorded_path(path: Path, key: str, value: Any) -> Path:
    if not isinstance(value, str) or "\0" in value or not Path(value).is_absolute():
        _corrupt(path, f'"julia.{key}" is {describe(value)}, not an absolute path')
    return Path(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        _corrupt(path, "it is not UTF-8 text")
    except OSError as error:
        raise ConfigurationError(
            f"pysemi's configuration {path} cannot be read: {error.strerror}; "
            f"make it readable, or set {CONFIG_DIR_VARIABLE} to another folder"
        ) from error
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        _corrupt(path, f"it is not JSON ({error})")
    if not isinstance(content, dict):
        _corrupt(path, f"it holds {describe(content)}, not an object")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with _explained(path):
        # Through a link (a settings folder kept elsewhere), not over it.
        write_json(path.resolve(), content)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(
            f"pysemi's configuration {path} cannot be written: {reason}; "
            f"make its folder writable, or set {CONFIG_DIR_VARIABLE} to another one"
        ) from error
