"""Asking a Julia what it is and what it can do, without starting it in this process.

``probe`` runs the program with :file:`probe.jl` and a time limit. Whether the
packages *load* is tried the way pysemi itself would load them: in a second
Python that imports torch, then juliacall, then the packages. (In a plain ``julia``
process PythonCall would have to find a shared libpython, which many Pythons
lack and pysemi does not need; and a clash of torch's libraries with Julia's
would go unseen.)
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysemi.config import JuliaConfig
from pysemi.errors import describe
from pysemi.runtime.environment import juliacall_environment, offline_environment
from pysemi.runtime.requirements import (
    OPTIONAL_PACKAGES,
    JuliaPackage,
    julia_compat,
    required_packages,
    version_allowed,
)
from pysemi.runtime.subprocesses import Outcome, run_limited

__all__ = [
    "FIND_SECONDS",
    "LOAD_SECONDS",
    "JuliaReport",
    "PackageReport",
    "error_line",
    "probe",
    "project_problem",
]

#: Default time limits: a first start from a network disk is slow, and a first
#: load may have to compile.
FIND_SECONDS = 60.0
LOAD_SECONDS = 120.0

_SCRIPT = Path(__file__).with_name("probe.jl")
_MARK = "pysemi-probe "
_PYTHON_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b")

#: Run by a second Python, with the script and the packages' names as arguments.
_LOAD_PROGRAM = """\
import sys
import warnings
warnings.simplefilter("ignore")  # juliacall's, about torch having been imported first
import torch
from juliacall import Main
Main.include(sys.argv[1])
for name in sys.argv[2:]:
    Main.PySemiProbe.load(name)
"""


@dataclass(frozen=True)
class PackageReport:
    """What is known of one Julia package.

    Attributes
    ----------
    name : str
        The package.
    required : bool
        Whether pysemi needs it, or uses it only where it is there.
    version : str or None
        The installed version; None where it is not installed.
    loads : bool or None
        Whether it loaded; None if that was not tried.
    functional : bool or None
        CUDA's own word on whether it has a working GPU; None if not asked.
    problem : str or None
        Why pysemi cannot use it, in one line.
    """

    name: str
    required: bool
    version: str | None = None
    loads: bool | None = None
    functional: bool | None = None
    problem: str | None = None


@dataclass(frozen=True)
class JuliaReport:
    """What a Julia answered, or why it did not.

    Attributes
    ----------
    julia : JuliaConfig
        The Julia that was asked.
    version : str or None
        Its version; None if it gave no answer.
    threads, blas_threads : int or None
        Threads of Julia, and of its BLAS.
    blas : str or None
        ``LinearAlgebra.BLAS.get_config()``.
    packages : tuple of PackageReport
        The packages pysemi needs or can use; empty if it gave no answer.
    problem : str or None
        Why pysemi cannot use this Julia, in one line; None if it can.
    timed_out : bool
        Whether the problem is that a time limit was reached.
    """

    julia: JuliaConfig
    version: str | None = None
    threads: int | None = None
    blas: str | None = None
    blas_threads: int | None = None
    packages: tuple[PackageReport, ...] = ()
    problem: str | None = None
    timed_out: bool = False

    @property
    def usable(self) -> bool:
        """Whether pysemi can use this Julia, as far as was tried."""
        return self.problem is None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return {
            **self.julia.as_dict(),
            "version": self.version,
            "threads": self.threads,
            "blas": self.blas,
            "blas_threads": self.blas_threads,
            "packages": [dataclasses.asdict(package) for package in self.packages],
            "usable": self.usable,
            "problem": self.problem,
        }


def probe(
    julia: JuliaConfig,
    *,
    deep: bool = False,
    find_seconds: float = FIND_SECONDS,
    load_seconds: float = LOAD_SECONDS,
) -> JuliaReport:
    """Ask ``julia`` for its version and for the packages that pysemi needs.

    Nothing is downloaded and nothing is started in this process. A Julia that
    hangs or crashes, or a program that is no Julia, is reported, not raised.

    Parameters
    ----------
    julia : JuliaConfig
        The Julia to ask.
    deep : bool
        Also try to load the packages, through juliacall in another process.
        What has not been compiled yet is compiled then, which takes minutes.
    find_seconds, load_seconds : float
        Time limits of the two parts.
    """
    report = _find(julia, find_seconds)
    if deep and report.usable:
        report = _load(report, load_seconds)
    return report


def project_problem(project: Path) -> str | None:
    """Say in one line why ``project`` is no Julia project's folder; None if it is."""
    if not project.is_dir():
        what = "is a file" if project.exists() else "does not exist"
        return f"{project} {what}; a Julia project's folder is needed"
    if not any((project / name).is_file() for name in ("JuliaProject.toml", "Project.toml")):
        return f"{project} holds no Project.toml, so it is not a Julia project's folder"
    return None


def _find(julia: JuliaConfig, limit: float) -> JuliaReport:
    report = JuliaReport(julia)
    exe = julia.executable
    problem = project_problem(julia.project)
    if problem is not None:
        return dataclasses.replace(report, problem=problem)
    wanted = [*required_packages(), *OPTIONAL_PACKAGES]
    command = [
        str(exe),
        "--startup-file=no",
        f"--project={julia.project}",
        str(_SCRIPT),
        *(package.name for package in wanted),
    ]
    try:
        outcome = run_limited(command, limit=limit, environment=offline_environment(julia))
    except OSError as error:
        return dataclasses.replace(report, problem=f"{exe} cannot be run: {error.strerror}")

    answers: dict[str, dict[str, str]] = {}
    complete = False
    for kind, fields in _records(outcome.stdout):
        if kind == "julia":
            report = dataclasses.replace(
                report, version=fields.get("version"), threads=_number(fields.get("threads"))
            )
        elif kind == "blas":
            report = dataclasses.replace(
                report, blas=fields.get("config"), blas_threads=_number(fields.get("threads"))
            )
        elif kind == "package":
            answers[fields.get("name", "")] = fields
        elif kind == "found":
            complete = True
    problem = _julia_problem(report, outcome, limit, complete)
    if problem is not None:
        timed_out = outcome.returncode is None
        return dataclasses.replace(report, problem=problem, timed_out=timed_out)

    required = {package.name for package in required_packages()}
    packages = tuple(
        _package_report(package, answers.get(package.name, {}), julia, package.name in required)
        for package in wanted
    )
    return _with_packages(report, packages)


def _julia_problem(
    report: JuliaReport, outcome: Outcome, limit: float, complete: bool
) -> str | None:
    exe = report.julia.executable
    needed = julia_compat()
    if report.version is None:
        if outcome.returncode is None:
            return f"{exe} gave no answer within {limit:g} s"
        said = outcome.stderr.strip() or outcome.stdout.strip()
        if outcome.returncode == 0:
            return f"{exe} is not a Julia: it ran, and said {describe(said)}"
        end = outcome.describe_end()
        return f"{exe} is not a working Julia: it {end}, and said {error_line(said)}"
    if not _is_version(report.version):
        return f"{exe} is not a Julia: it gave {describe(report.version)} as its version"
    if not version_allowed(report.version, needed):
        return f"{exe} is Julia {report.version}; pysemi needs {needed} or a later 1.x"
    if not complete:
        if outcome.returncode is None:
            return (
                f"Julia {report.version} at {exe} did not finish looking for packages in "
                f"{report.julia.project} within {limit:g} s"
            )
        return (
            f"Julia {report.version} at {exe} {outcome.describe_end()} while looking for packages "
            f"in {report.julia.project}, and said {error_line(outcome.stderr)}"
        )
    return None


def _package_report(
    package: JuliaPackage, answer: dict[str, str], julia: JuliaConfig, required: bool
) -> PackageReport:
    report = PackageReport(package.name, required, version=answer.get("version") or None)
    uuid = answer.get("uuid")
    if uuid is None:
        # An absent optional package is no problem of anybody's.
        problem = f"is not in the project {julia.project}" if required else None
    elif uuid != package.uuid:
        problem = f"is another package of that name (uuid {uuid})"
    elif "path" not in answer:
        depot = julia.depot or "Julia's depot"
        problem = f"is in the project {julia.project}, but not installed in {depot}"
    elif report.version is None or not _is_version(report.version):
        problem = f"has no version in its Project.toml ({answer['path']})"
    elif not version_allowed(report.version, package.compat):
        problem = f"is version {report.version}; pysemi needs {package.compat}"
    else:
        problem = None
    return dataclasses.replace(report, problem=problem and f"{package.name} {problem}")


def _load(report: JuliaReport, limit: float) -> JuliaReport:
    """Try to load the packages that were found, as pysemi would."""
    # Starting juliacall is what loads PythonCall.
    names = [p.name for p in report.packages if p.version is not None and p.name != "PythonCall"]
    command = [sys.executable, "-c", _LOAD_PROGRAM, str(_SCRIPT), *names]
    outcome = run_limited(command, limit=limit, environment=juliacall_environment(report.julia))

    results: dict[str, dict[str, str]] = {}
    loading = "PythonCall"
    for kind, fields in _records(outcome.stdout):
        if kind == "loading":
            results.setdefault("PythonCall", {})  # Julia answers, so juliacall has started
            loading = fields.get("name", "")
        elif kind in ("loaded", "failed"):
            results[fields.get("name", "")] = fields
            loading = ""
    timed_out = outcome.returncode is None and bool(loading)
    if loading:
        if timed_out:
            error = f"not loaded within {limit:g} s; its first load may have to compile for longer"
        else:
            error = f"Python {outcome.describe_end()}, and said {error_line(outcome.stderr)}"
        results[loading] = {"error": error}
    elif outcome.returncode != 0 and set(names) - set(results):
        missing = next(name for name in names if name not in results)
        results[missing] = {"error": f"Python {outcome.describe_end()}"}

    packages = []
    for package in report.packages:
        result = results.get(package.name)
        if result is None:
            packages.append(package)
        elif "error" in result:
            problem = f"{package.name} does not load: {result['error']}"
            packages.append(dataclasses.replace(package, loads=False, problem=problem))
        else:
            word = result.get("functional")
            functional = word == "true" if word else None
            packages.append(dataclasses.replace(package, loads=True, functional=functional))
    return dataclasses.replace(_with_packages(report, tuple(packages)), timed_out=timed_out)


def _with_packages(report: JuliaReport, packages: tuple[PackageReport, ...]) -> JuliaReport:
    """Return the report with ``packages``, and with what is wrong with required ones."""
    problems = [package.problem for package in packages if package.required and package.problem]
    return dataclasses.replace(
        report, packages=packages, problem="; ".join(problems) if problems else None
    )


def _records(output: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the whole records in ``output``; anything else in it is passed over."""
    for line in output.splitlines():
        if not (line.startswith(_MARK) and line.endswith(" .")):
            continue
        kind, *words = line[len(_MARK) : -len(" .")].split()
        try:
            yield kind, {key: bytes.fromhex(value).decode() for key, value in map(_pair, words)}
        except ValueError:  # not ours after all
            continue


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _is_version(text: str) -> bool:
    release = text.partition("+")[0].partition("-")[0].split(".")
    return len(release) == 3 and all(part.isdecimal() for part in release)


def error_line(output: str) -> str:
    """Return the line of a Julia's or a Python's ``output`` that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "nothing"
    # Julia's own comes first, with a stack trace after it; an exception's name in a
    # Python traceback comes late; of anything else the last words are the best guess.
    candidates = [
        *(line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")),
        *(line for line in reversed(lines) if _PYTHON_EXCEPTION.match(line)),
        lines[-1],
    ]
    return describe(candidates[0], limit=200)
