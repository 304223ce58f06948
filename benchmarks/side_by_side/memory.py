"""How much memory this process takes for a while, at most; on Linux."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

__all__ = ["peak_bytes"]

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def peak_bytes(act: Callable[[], object]) -> int | None:
    """Bytes that are resident at some time during ``act``, beyond those before.

    What has been freed before is given back to the system first, so that its use counts
    again. None where the system does not tell.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        before = _kilobytes("VmRSS")
        _RESET.write_text("5")  # the peak, back to what it is now
    except (OSError, KeyError):
        return None
    act()
    return 1024 * max(_kilobytes("VmHWM") - before, 0)


def _kilobytes(name: str) -> int:
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(fields[name].split()[0])
