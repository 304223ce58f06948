"""Warnings that point at the caller's own line, however deep inside pysemi they arise."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

__all__ = ["warn_caller"]

BETWEEN = ("pysemi", "torch", "torchdiffeq")
"""Packages whose frames lie between a user's call and a warning."""


def warn_caller(text: str, category: type[Warning] = UserWarning) -> None:
    """``warnings.warn`` at the stack level of the first frame that is none of pysemi's or torch's.

    On a thread that has no such frame, at that of the outermost.
    """
    folders = tuple(
        f"{Path(module.__file__).parent}{os.sep}"
        for module in map(sys.modules.get, BETWEEN)
        if module is not None and module.__file__ is not None
    )
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        frame = frame.f_back
        level += 1
    warnings.warn(text, category, stacklevel=level)
