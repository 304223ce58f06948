"""What a trace depends on besides the function: versions, torch's settings, the compiler itself."""

from __future__ import annotations

import platform
import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pysemi
from pysemi.compiler.written import FORMAT

__all__ = ["surroundings"]


def surroundings() -> tuple[Any, ...]:
    """As values that another process can compare with its own."""
    backends = torch.backends
    return (
        FORMAT,
        pysemi.__version__,
        _compiler(),
        *(torch.__version__[:], torch.version.git_version, np.__version__, sys.version),
        str(getattr(sys.modules.get("scipy"), "__version__", "")),
        *(sys.implementation.name, sys.byteorder, platform.machine()),
        backends.cpu.get_cpu_capability(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_anomaly_enabled(),
        torch.get_float32_matmul_precision(),
        backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled(),
        backends.cuda.flash_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.math_sdp_enabled(),
        backends.mha.get_fastpath_enabled(),
    )


@cache
def _compiler() -> bytes:
    """A digest of the compiler's own source: who changes it does not change the version."""
    own = Path(__file__).parent
    digest = blake2b(digest_size=20)
    for path in [*sorted(own.rglob("*.py")), own.parent / "state.py", own.parent / "kept.py"]:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.digest()
