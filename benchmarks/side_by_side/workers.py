"""The workers as the benchmark sees them: started, asked, and stopped if they do not answer."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Worker", "WorkerError", "unset_variables", "worker_environment"]

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "JULIA_NUM_THREADS": "1",
    "PYTHON_JULIACALL_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "NPROC": "1",  # the size of XLA's pools of threads
}
_SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "0",
    "CUDA_VISIBLE_DEVICES": "",
    # Compiled kernels of an earlier run would make compile_s smaller, and those that are
    # compiled for the next one take the other core meanwhile.
    "PYSEMI_KERNEL_CACHE": "off",
    "PYSEMI_COMPILATION_CACHE": "off",
    "PYSEMI_BACKEND": "auto",
}
# What makes a BLAS take other kernels than it would: not everyone's machine has it.
_BLAS_PREFIXES = ("OPENBLAS_", "MKL_", "GOTO_", "BLIS_", "NVPL_BLAS_", "DNNL_", "ONEDNN_")
_BLAS_NAMES = ("ATEN_CPU_CAPABILITY", "PYSEMI_BLAS_THREADS")

_MESSAGE_LENGTH = 200


class WorkerError(Exception):
    """A worker that could not do what it was asked, or did not answer in time."""


def unset_variables(environment: Mapping[str, str]) -> list[str]:
    """The BLAS settings that workers do not inherit."""
    return sorted(
        name for name in environment if name.startswith(_BLAS_PREFIXES) or name in _BLAS_NAMES
    )


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without BLAS settings, for one thread."""
    dropped = unset_variables(environment)
    kept = {name: value for name, value in environment.items() if name not in dropped}
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH")]))
    return {**kept, **_ONE_THREAD, **_SETTINGS, "PYTHONPATH": path}


class Worker:
    """One package's process; started at the first request, and again after it was lost.

    Parameters
    ----------
    package : str
        Its module is ``by_<package>``.
    command : sequence of str, optional
        What to start; by default the module :mod:`.worker`.
    """

    def __init__(self, package: str, command: list[str] | None = None) -> None:
        self.package = package
        self._command = command or [sys.executable, "-m", "side_by_side.worker", package]
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Return the answer to a request.

        Raises
        ------
        WorkerError
            If the answer is an error, or there is none within ``limit`` seconds, or the
            process ended; then the next request starts another.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=limit)
        except queue.Empty:
            self.stop()
            raise WorkerError(f"no answer within {limit:g} s") from None
        except BrokenPipeError:
            line = None
        except BaseException:  # Ctrl-C: whatever it is doing, nobody waits for it
            self.stop()
            raise
        if line is None:
            code = process.wait()
            self._process = None
            raise WorkerError(f"the process ended with code {code}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            words = " ".join(answer["error"].split())  # Julia's errors have many lines
            raise WorkerError(words[:_MESSAGE_LENGTH])
        return answer

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._answers = queue.Queue()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=worker_environment(os.environ),
                encoding="utf-8",
            )
            reader = threading.Thread(
                target=_read, args=(self._process, self._answers), daemon=True
            )
            reader.start()
        return self._process

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _read(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put(None)
