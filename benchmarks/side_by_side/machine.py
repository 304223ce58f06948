"""What the numbers depend on besides the packages: the machine, and how busy it was."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

from side_by_side.workers import unset_variables

__all__ = ["describe_machine", "load"]


def load() -> float | None:
    """Processes that ran or waited, on average over the last minute; None where unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe_machine(versions: dict[str, dict[str, str]], command: list[str]) -> dict[str, Any]:
    """Return the machine as the JSON file has it, but for the load at the end.

    Parameters
    ----------
    versions : dict
        What each package's worker said of itself.
    command : list of str
        The arguments of this run.
    """
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "threads": 1,
        "unset": unset_variables(os.environ),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["pysemi", "bench", *command]),
        "load_start": load(),
        "load_end": None,
    }


def _processor() -> str:
    """Name the processor, as far as the system does."""
    cpuinfo = Path("/proc/cpuinfo")
    if sys.platform.startswith("linux") and cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
