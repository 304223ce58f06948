"""Compiled kernels on disk, for the processes that come after this one.

A model's fused kernels are compiled by Julia in the process that needs them. PySemi.jl
writes those that took long as a small package (``julia/PySemi/src/kept_kernels.jl``), which
a Julia in the background compiles here; later processes, other ranks' too, load it. Nobody
ever waits for it, and what goes wrong with it costs no more than its use.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pysemi.config import kept_folder, remove_kept

__all__ = [
    "KEEP_AFTER",
    "KERNEL_CACHE_VARIABLE",
    "KeptKernels",
    "KernelCompiler",
    "clear_kernels",
    "kept_kernels",
    "kernel_folder",
]

#: "off" or "0": kernels are neither kept nor loaded.
KERNEL_CACHE_VARIABLE = "PYSEMI_KERNEL_CACHE"

KEEP_AFTER = 0.5
"""Seconds that building a field must have taken for its kernels to be kept: compiling them
for later takes some 15 seconds of another core."""


def kernel_folder() -> Path | None:
    """The folder that kernels are kept in, which need not exist; None where none are kept."""
    return kept_folder("kernels", KERNEL_CACHE_VARIABLE)


@dataclass(frozen=True)
class KeptKernels:
    """What is kept on disk.

    Attributes
    ----------
    folder : Path
    packages : int
        How many models' kernels there are, compiled or waiting to be.
    size : int
        In bytes, everything included.
    """

    folder: Path
    packages: int
    size: int

    def as_dict(self) -> dict[str, str | int]:
        """Return it as JSON has it."""
        return {"folder": str(self.folder), "packages": self.packages, "bytes": self.size}


def kept_kernels() -> KeptKernels | None:
    """Look at what is kept; None where none are kept."""
    folder = kernel_folder()
    if folder is None:
        return None
    packages = size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # one that is being written, or removed
            size += path.stat().st_size if path.is_file() else 0
            packages += path.name == "Project.toml"
    return KeptKernels(folder, packages, size)


def clear_kernels() -> KeptKernels | None:
    """Remove what is kept, and return what it was; processes that use it go on.

    Raises
    ------
    ConfigurationError
        If it cannot be removed.
    """
    kept = kept_kernels()
    if kept is not None:
        remove_kept(kept.folder)
    return kept


class KernelCompiler:
    """Has packages of kernels compiled, one Julia at a time, in the background.

    Parameters
    ----------
    command : sequence of str
        What compiles packages, up to their names.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [*_politely(), *command]
        self._asked: set[str] = set()
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    def compile(self, name: str) -> None:
        """Have a package compiled, now or after those before it, once; return at once."""
        if name in self._asked:
            return
        self._asked.add(name)
        self._waiting.put(name)
        if self._worker is None:
            # A daemon, which no program waits for at its end.
            self._worker = threading.Thread(target=self._work, name="pysemi-kernels", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while True:
            name = self._waiting.get()
            try:
                subprocess.run(
                    [*self._command, name],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # It may outlive this process, and Ctrl-C here is not meant for it.
                    start_new_session=True,
                    check=False,
                )
            except OSError:  # no memory, or no program: the next process compiles its own too
                return


def _politely() -> list[str]:
    nice = None if sys.platform == "win32" else shutil.which("nice")
    return [] if nice is None else [nice, "-n", "19"]
