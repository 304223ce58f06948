"""Fixtures that several folders of tests use: settings of their own, and Julias."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from pysemi.config import JuliaConfig, read_julia
from pysemi.errors import PysemiError
from pysemi.runtime.probe import probe
from pysemi.runtime.requirements import JuliaPackage, required_packages

# A machine that is busy with something else is no reason to fail.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# Two threads of one small operation wait for each other, for minutes if a neighbour
# holds the other core.
torch.set_num_threads(1)
# As most users have it: Julia starts with as many as torch uses.
os.environ.setdefault("PYTHON_JULIACALL_THREADS", "2")
# Tests compile hundreds of kernels and tapes that nobody needs again.
os.environ["PYSEMI_KERNEL_CACHE"] = "off"
os.environ["PYSEMI_COMPILATION_CACHE"] = "off"

COMPILE_SECONDS = 1500
"""For PySemi.jl, once after a change: 100 s of one core were measured."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end, one process would be left with it and the others idle."""
    items.sort(key=lambda item: item.path.name != "test_julia_package.py")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let PySemi.jl be compiled before the first test, whose time limit is not meant for that."""
    wanted = any(item.get_closest_marker("julia") for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    try:
        if read_julia() is None:
            return
    except PysemiError:  # the fixture real_julia says so
        return
    subprocess.run(
        [sys.executable, "-c", "from pysemi.runtime.session import session; session()"],
        timeout=COMPILE_SECONDS,
        capture_output=True,
        check=False,  # the tests say better what is wrong
    )


FAKE_JULIA = """\
#!{python} -SE
import os, sys, time

VERSION = {version!r}
PACKAGES = {packages!r}  # name: (uuid, version), version None for "not installed"


def record(kind, **fields):
    words = [f"{{key}}={{str(value).encode().hex()}}" for key, value in fields.items()]
    print("\\n" + " ".join(["pysemi-probe", kind, *words, "."]), flush=True)


{before}
args = sys.argv[1:]
if "--version" in args:  # juliapkg asks so
    print("julia version", VERSION)
elif "-e" in args:  # a script of juliapkg's
    script = args[args.index("-e") + 1]
    with open(__file__ + ".scripts", "a") as log:
        print(args, script, file=log)
    if "Libdl" in script:
        print("/lib/libjulia.so", "/bin", sep="\\0", end="")
    {script}
else:
    names = args[3:]
    record("julia", version=VERSION, threads=3)
    {during}
    record("blas", config="LBTConfig([ILP64] libopenblas64_.so)", threads=2)
    for name in names:
        uuid, version = PACKAGES.get(name, (None, None))
        if uuid is None:
            record("package", name=name)
        elif version is None:
            record("package", name=name, uuid=uuid)
        else:
            record("package", name=name, uuid=uuid, path=f"/p/{{name}}.jl", version=version)
    record("found")
{after}
"""

FAKE_JULIACALL = '''\
"""Stands in for juliacall where a second Python tries to load the packages."""
import os, sys, time


def record(kind, **fields):
    words = [f"{key}={str(value).encode().hex()}" for key, value in fields.items()]
    print("\\n" + " ".join(["pysemi-probe", kind, *words, "."]), flush=True)


START


class PySemiProbe:
    @staticmethod
    def load(name):
        record("loading", name=name)
        BEHAVIOUR
        record("loaded", name=name, functional="false" if name == "CUDA" else "")


class Main:
    PySemiProbe = PySemiProbe

    @staticmethod
    def include(path):
        assert os.path.isfile(path)
'''


@pytest.fixture(autouse=True)
def torch_unless_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backend="auto" be torch, Julia or not, except where a test is about Julia."""
    if request.node.get_closest_marker("julia") is None:
        monkeypatch.setenv("PYSEMI_BACKEND", "torch")


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep this machine's Julias and settings out of a test; return pysemi's config folder."""
    from juliapkg.state import STATE

    config = tmp_path / "config"
    monkeypatch.setenv("PYSEMI_CONFIG_DIR", str(config))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for variable in list(os.environ):
        if variable.startswith(("JULIA", "PYTHON_JULIA", "PYSEMI_BACKEND")):
            monkeypatch.delenv(variable)
    # Another test may have started one in this process.
    monkeypatch.delitem(sys.modules, "juliacall", raising=False)
    # What a Python started from here finds, and this process, whose juliapkg is loaded.
    project = tmp_path / "juliapkg-project"
    monkeypatch.setenv("PYTHON_JULIAPKG_PROJECT", str(project))
    monkeypatch.setitem(STATE, "project", str(project))
    monkeypatch.setitem(STATE, "meta", str(project / "pyjuliapkg" / "meta.json"))
    return config


@pytest.fixture
def no_julia(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Julia, also if another test has started one in this process."""
    from pysemi.runtime import session

    monkeypatch.setattr(session, "_session", None)
    monkeypatch.setattr(session, "_begun", None)


def good_version(package: JuliaPackage) -> str:
    """Return a version of ``package`` that pysemi can use."""
    compat = package.compat or "1"
    return {"7": "7.7.0", "2": "2.2.3", "7.100": "7.112.0", "0.9": "0.9.30"}.get(
        compat, compat.lstrip("=^")
    )


@pytest.fixture
def fake_julia(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a program which answers as Julia would.

    Its arguments are Julia's version, the packages by name (uuid and version),
    lines of Python to run before, during and after the answer or as juliapkg's
    script, and the path to write to.
    """

    def write(
        *,
        version: str = "1.10.6",
        packages: dict[str, tuple[str, str | None]] | None = None,
        without: str = "",
        before: str = "",
        during: str = "pass",
        after: str = "",
        script: str = "pass",
        path: Path | None = None,
    ) -> Path:
        present: dict[str, tuple[str, str | None]] = {
            package.name: (package.uuid, good_version(package)) for package in required_packages()
        }
        present.update(packages or {})
        present.pop(without, None)
        path = path or tmp_path / "fake" / "julia"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = FAKE_JULIA.format(
            python=sys.executable,
            version=version,
            packages=present,
            before=before,
            during=during,
            after=after,
            script=script,
        )
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def fake_juliacall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a juliacall (and a torch) before the real ones.

    Only Pythons started from here see them. The arguments are lines of Python:
    what importing it does, and what loading the package ``name`` does.
    """

    def write(start: str = "", behaviour: str = "pass") -> None:
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        text = FAKE_JULIACALL.replace("START", start).replace("BEHAVIOUR", behaviour)
        (site / "juliacall.py").write_text(text, encoding="utf-8")
        (site / "torch.py").write_text("", encoding="utf-8")  # the real one takes seconds
        monkeypatch.setenv("PYTHONPATH", str(site))

    return write


@pytest.fixture
def julia_project(tmp_path: Path) -> Path:
    """Return the folder of an empty Julia project."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "Project.toml").write_text("[deps]\n", encoding="utf-8")
    return project


@pytest.fixture(scope="session")
def real_julia() -> JuliaConfig:
    """Return the Julia that this machine's user has configured, if it is usable."""
    try:
        julia = read_julia()
    except PysemiError as error:
        pytest.skip(f"no usable Julia is configured (pysemi julia use ...): {error}")
    if julia is None:
        pytest.skip("no usable Julia is configured (pysemi julia use ...)")
    report = probe(julia)
    if not report.usable:
        pytest.skip(f"no usable Julia is configured (pysemi julia use ...): {report.problem}")
    return julia
