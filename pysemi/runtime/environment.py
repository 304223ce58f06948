"""The environment variables that pysemi gives to a Julia.

pysemi runs a Julia offline: starting or probing one never installs, updates or
downloads anything. The same variables serve Julia in a process of its own and
Julia inside this process, so that what was probed is what is started.
"""

from __future__ import annotations

import os
import sys

from pysemi.config import JuliaConfig

__all__ = ["juliacall_environment", "named_depot", "offline_environment"]


def offline_environment(julia: JuliaConfig) -> dict[str, str]:
    """Return the variables that keep ``julia`` to what is installed."""
    variables = {
        # Pkg resolves from what is installed, and knows no server to ask.
        "JULIA_PKG_OFFLINE": "true",
        "JULIA_PKG_SERVER": "",
        # PythonCall uses this Python, and does not make a Conda environment.
        "JULIA_CONDAPKG_BACKEND": "Null",
        "JULIA_PYTHONCALL_EXE": sys.executable,
    }
    if julia.depot is not None:
        # The empty last entry stands for Julia's own depots: the compiled
        # standard libraries are in one of them.
        variables["JULIA_DEPOT_PATH"] = f"{julia.depot}{os.pathsep}"
    return variables


def juliacall_environment(julia: JuliaConfig) -> dict[str, str]:
    """Return the variables with which ``import juliacall`` starts ``julia`` offline.

    juliacall asks juliapkg for nothing when both of its own are set.
    """
    return {
        **offline_environment(julia),
        "PYTHON_JULIACALL_EXE": str(julia.executable),
        "PYTHON_JULIACALL_PROJECT": str(julia.project),
    }


def named_depot() -> str | None:
    """Return the depot that ``JULIA_DEPOT_PATH`` names, if it names exactly one.

    A list of several cannot be recorded as one depot; it stays the
    environment's affair, as it was before.
    """
    named = [entry for entry in os.environ.get("JULIA_DEPOT_PATH", "").split(os.pathsep) if entry]
    return named[0] if len(named) == 1 else None
