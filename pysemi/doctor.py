"""What this installation of pysemi consists of, and whether it works.

:func:`diagnose` finds out and returns it; how it is shown is the command line's
affair. Nothing is started in this process but torch, and nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Any

import pysemi
from pysemi.config import JuliaConfig, config_file, read_julia
from pysemi.errors import ConfigurationError, PysemiError
from pysemi.kept import KeptCompilations, kept_compilations
from pysemi.runtime.environment import offline_environment
from pysemi.runtime.kernels import KeptKernels, kept_kernels
from pysemi.runtime.location import FoundJulia, find_julia
from pysemi.runtime.probe import LOAD_SECONDS, JuliaReport, probe

__all__ = ["BackendReport", "Diagnosis", "JuliaDiagnosis", "TorchReport", "diagnose"]

_DISTRIBUTIONS = ("torchdiffeq", "numpy", "juliacall", "diffeqpy")
_USE = "pysemi julia use EXE --project DIR"


@dataclass(frozen=True)
class TorchReport:
    """The PyTorch in use.

    Attributes
    ----------
    version : str or None
        None if it cannot be imported.
    build : str or None
        ``"CPU"``, or what it was built for (``"CUDA 12.8"``, ``"ROCm 6.4"``).
    threads : int or None
        Threads that one operation may use.
    blas : str or None
        The library behind its matrix products.
    gpus : tuple of str
        Names of the CUDA devices that it can use.
    problem : str or None
        Why it cannot be imported, in one line.
    """

    version: str | None = None
    build: str | None = None
    threads: int | None = None
    blas: str | None = None
    gpus: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class JuliaDiagnosis:
    """The Julia that pysemi would use.

    Attributes
    ----------
    found : FoundJulia or None
        Which it is and where it was found; None if there is none.
    report : JuliaReport or None
        What it answered when probed.
    problem : str or None
        What is wrong, in one line; None also where no Julia is configured,
        since pysemi works without one.
    kernels : KeptKernels or None
        What is kept on disk of kernels that it has compiled; None if none are kept.
    compilations : KeptCompilations or None
        What is kept on disk of vector fields compiled for it; None if none are kept.
    """

    found: FoundJulia | None = None
    report: JuliaReport | None = None
    problem: str | None = None
    kernels: KeptKernels | None = None
    compilations: KeptCompilations | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON has it."""
        return {
            "source": None if self.found is None else self.found.source,
            **({} if self.report is None else self.report.as_dict()),
            "problem": self.problem,
            **({} if self.kernels is None else {"kernels": self.kernels.as_dict()}),
            **({} if self.compilations is None else {"compilations": self.compilations.as_dict()}),
        }


@dataclass(frozen=True)
class BackendReport:
    """The backend that ``backend="auto"`` means at present, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything :func:`diagnose` found out.

    Attributes
    ----------
    pysemi, python : str
        Versions.
    executable, platform : str
        The Python in use, and the system it runs on.
    distributions : dict
        Versions of the Python packages that pysemi stands on, by name; None
        where one is not installed.
    torch : TorchReport
    julia : JuliaDiagnosis
    auto : BackendReport or None
        None if it cannot be told, because of a problem listed elsewhere.
    problems : tuple of str
        Everything that is wrong, one line each. Empty if what is configured works.
    remedy : str or None
        The command to run about the first problem.
    """

    pysemi: str
    python: str
    executable: str
    platform: str
    distributions: dict[str, str | None]
    torch: TorchReport
    julia: JuliaDiagnosis
    auto: BackendReport | None
    problems: tuple[str, ...]
    remedy: str | None

    @property
    def ok(self) -> bool:
        """Whether what is configured works."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON has it."""
        return {
            "pysemi": self.pysemi,
            "python": self.python,
            "executable": self.executable,
            "platform": self.platform,
            "distributions": dict(self.distributions),
            "torch": dataclasses.asdict(self.torch),
            "julia": self.julia.as_dict(),
            "auto": None if self.auto is None else dataclasses.asdict(self.auto),
            "ok": self.ok,
            "problems": list(self.problems),
            "remedy": self.remedy,
        }


def diagnose(*, load: bool = True, load_seconds: float = LOAD_SECONDS) -> Diagnosis:
    """Find out what pysemi has to work with, and whether it works.

    Parameters
    ----------
    load : bool
        Also try to load the Julia packages, in another process. Without it
        only their presence is checked, which takes a second or two.
    load_seconds : float
        Time limit of that.
    """
    findings: list[tuple[str, str]] = []  # what is wrong, and the command to run about it

    torch = _torch()
    if torch.problem is not None:
        findings.append((torch.problem, _pip("torch")))
    distributions = {name: _version(name) for name in _DISTRIBUTIONS}
    findings += [
        (f"the Python package {name} is not installed", _pip(name))
        for name, version in distributions.items()
        if version is None
    ]
    julia, remedy = _julia(load, load_seconds)
    if julia.problem is not None:
        findings.append((julia.problem, remedy))
    auto, problem = _auto()
    # A configuration that cannot be read has been found above, by the same words.
    if problem is not None and all(problem != found for found, _ in findings):
        findings.append((problem, _USE))
    return Diagnosis(
        pysemi=pysemi.__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        distributions=distributions,
        torch=torch,
        julia=julia,
        auto=auto,
        problems=tuple(problem for problem, _ in findings),
        remedy=findings[0][1] if findings else None,
    )


def _pip(distribution: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install --force-reinstall {distribution}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> TorchReport:
    try:
        import torch
    except Exception as error:  # a broken build raises OSError and others too
        first = str(error).partition("\n")[0]
        return TorchReport(problem=f"torch cannot be imported: {type(error).__name__}: {first}")
    build = "CPU"
    if torch.version.cuda is not None:
        build = f"CUDA {torch.version.cuda}"
    elif torch.version.hip is not None:
        build = f"ROCm {torch.version.hip}"
    gpus: tuple[str, ...] = ()
    if torch.cuda.is_available():
        gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    settings = torch.__config__.show()
    library = re.search(r"- (.*Math Kernel Library Version [\w.]+)", settings)
    if library is None:
        library = re.search(r"BLAS_INFO=(\w+)", settings)
    return TorchReport(
        version=torch.__version__,
        build=build,
        threads=torch.get_num_threads(),
        blas=None if library is None else library[1],
        gpus=gpus,
    )


def _julia(load: bool, load_seconds: float) -> tuple[JuliaDiagnosis, str]:
    try:
        found = find_julia()
    except ConfigurationError as error:
        return JuliaDiagnosis(problem=str(error)), _configuration_remedy()
    if found is None:
        return JuliaDiagnosis(), ""
    report = probe(found.julia, deep=load, load_seconds=load_seconds)
    diagnosis = JuliaDiagnosis(found, report, report.problem, kept_kernels(), kept_compilations())
    return diagnosis, _julia_remedy(found, report, load_seconds)


def _configuration_remedy() -> str:
    try:
        read_julia()
    except ConfigurationError:
        path = str(config_file())
        if os.path.isfile(path):  # noqa: PTH113 (Path.is_file may raise)
            return f"rm {shlex.quote(path)} && {_USE}"
    return _USE  # which makes juliapkg's settings, if it is they, irrelevant


def _julia_remedy(found: FoundJulia, report: JuliaReport, load_seconds: float) -> str:
    if report.timed_out and report.packages:  # it was the loading
        return f"pysemi doctor --limit {max(1800, 4 * round(load_seconds))}"
    for package in report.packages:
        if package.required and package.loads is False and package.name != "PythonCall":
            return _show_whole_error(report.julia, package.name)
    installed = all(package.version for package in report.packages if package.required)
    if found.source == "juliapkg" and report.version is not None and not installed:
        # juliapkg resolved before pysemi was installed.
        return "pysemi julia install"
    return _USE


def _show_whole_error(julia: JuliaConfig, package: str) -> str:
    depot = offline_environment(julia).get("JULIA_DEPOT_PATH")
    command = [
        *([] if depot is None else ["env", f"JULIA_DEPOT_PATH={depot}"]),
        str(julia.executable),
        f"--project={julia.project}",
        "-e",
        f"import {package}",
    ]
    return shlex.join(command)


def _auto() -> tuple[BackendReport | None, str | None]:
    try:
        from pysemi.backends import explain_auto  # here: it brings torch, which may be broken

        return BackendReport(*explain_auto()), None
    except PysemiError as error:
        return None, str(error)
    except ImportError:
        return None, None  # of torch or torchdiffeq, and listed as such
