"""What a run ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from datetime import datetime, timezone
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
        "arguments": sys.argv[1:],
    }
