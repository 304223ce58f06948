"""Running another program, and being sure that it and its children are gone after.

Knows nothing of Julia. :func:`run_limited` is for a program that may hang, crash
or print without end; :func:`run_streamed` for one whose progress a user watches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

__all__ = ["Outcome", "run_limited", "run_streamed"]

#: Of each output stream the last this many bytes are kept.
_KEPT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_KEPT_LINES = 1000
#: Seconds to wait for the output of a program that has already ended. Only a
#: background process that inherited the stream makes this wait long.
_DRAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes
    ----------
    returncode : int or None
        As in :mod:`subprocess`; None if it was killed at its time limit.
    stdout, stderr : str
        The last mebibyte of each stream; undecodable bytes become "\ufffd".
    """

    returncode: int | None
    stdout: str
    stderr: str

    def describe_end(self) -> str:
        """Say how the program ended, as the rest of a sentence that names it."""
        if self.returncode is None:
            return "did not end in time"
        if self.returncode < 0:
            try:
                name = signal.Signals(-self.returncode).name
            except ValueError:
                name = f"signal {-self.returncode}"
            return f"crashed ({name})"
        return f"exited with code {self.returncode}"


def run_limited(
    command: Sequence[str],
    *,
    limit: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run ``command`` to its end, or kill it and its children after ``limit`` seconds.

    Parameters
    ----------
    command : sequence of str
        The program's path and its arguments.
    limit : float
        Seconds that the program may take.
    environment : mapping, optional
        Variables to add to those of this process.

    Raises
    ------
    OSError
        If the program cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # reads return what there is
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # so that its children can be killed too
    )
    assert process.stdout is not None
    assert process.stderr is not None
    streams = (_TailReader(process.stdout), _TailReader(process.stderr))
    returncode: int | None
    try:
        returncode = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        returncode = None
    except BaseException:
        _kill(process)
        raise
    stdout, stderr = (stream.text() for stream in streams)
    return Outcome(returncode, stdout, stderr)


def run_streamed(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run ``command`` to its end, however long that takes, and pass on what it prints.

    Both streams arrive as one, and as ``stdout`` in the outcome. If anything
    interrupts the wait (Ctrl-C, say), the program and its children are killed.

    Parameters
    ----------
    command, environment
        As for :func:`run_limited`.
    on_line : callable
        Called with each line, without its end.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        with process.stdout:
            for line in process.stdout:
                on_line(line.rstrip())
                tail.append(line)
        returncode = process.wait()
    except BaseException:
        _kill(process)
        raise
    return Outcome(returncode, "".join(tail), "")


def _kill(process: subprocess.Popen[Any]) -> None:
    if process.returncode is not None:  # its number may be another's by now
        return
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


class _TailReader:
    """A thread that empties a stream and keeps its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = bytearray()
        # A daemon: a stream held open by a stranger must not keep Python from ending.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while chunk := self._stream.read(_CHUNK_BYTES):
                self._kept += chunk
                if len(self._kept) > 2 * _KEPT_BYTES:
                    del self._kept[:-_KEPT_BYTES]

    def text(self) -> str:
        self._thread.join(_DRAIN_SECONDS)
        return bytes(self._kept[-_KEPT_BYTES:]).decode("utf-8", errors="replace")
