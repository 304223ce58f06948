"""What a run ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import pysemi

__all__ = ["describe_environment"]

_DISTRIBUTIONS = ("torchdiffeq", "torchcde", "numpy", "juliacall", "diffeqpy", "aeon", "librosa")


def describe_environment() -> dict[str, Any]:
    """Versions, machine and thread count, as a run's ``environment.json`` holds them."""
    versions = {"pysemi": pysemi.__version__, "torch": torch.__version__}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": versions,
        "commit": _commit(),
        "arguments": sys.argv[1:],
    }


def _commit() -> str | None:
    """The commit of the checkout that pysemi runs from, marked where files were changed since."""
    root = Path(pysemi.__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps into somebody else's checkout
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
