"""Julia's one thread.

Entering Julia from two threads crashes, and a garbage collection on a thread that
did not start it hangs. So Julia is started, used and left on one thread of this
process, and everyone else hands over work and waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pysemi.errors import BackendUnavailableError

__all__ = ["CallersHome", "Home", "StopFlag"]

T = TypeVar("T")


class StopFlag:
    """A number in memory that a running solve looks at; non-zero asks it to end.

    Attributes
    ----------
    address : int
        Of the ``int32``.
    """

    def __init__(self) -> None:
        self._value = ctypes.c_int32(0)
        self.address = ctypes.addressof(self._value)

    def set(self) -> None:
        """Ask the solve to end."""
        self._value.value = 1

    @property
    def is_set(self) -> bool:
        """Whether it was asked to."""
        return bool(self._value.value)


class Home:
    """A thread that runs what it is handed, in order.

    It belongs to the process that made it: after a fork, the child's copy refuses.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[_Handover] = SimpleQueue()
        self._process = os.getpid()
        # A daemon, so that a program can end while Julia waits for work.
        self._thread = threading.Thread(target=self._live, name="pysemi-julia", daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], T], stop: StopFlag | None = None) -> T:
        """Run ``job`` on the home thread and return its result, or raise its exception.

        Parameters
        ----------
        stop : StopFlag, optional
            Set when the wait is interrupted (Ctrl-C). The interrupt is raised once
            the job has ended, so that Julia is idle again and usable.

        Raises
        ------
        BackendUnavailableError
            In a process forked from the one that started Julia.
        """
        if threading.current_thread() is self._thread:
            return job()  # a vector field, called from a solve, that solves
        self.check_process()
        handover = _Handover(job)
        self._work.put(handover)
        return handover.wait(stop)  # type: ignore[no-any-return]

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Hand ``job`` over without waiting for it."""
        future: Future[T] = Future()
        self._work.put(_Handover(lambda: _fulfil(future, job)))
        return future

    def check_process(self) -> None:
        """Raise BackendUnavailableError in a process that was forked from Julia's."""
        if os.getpid() != self._process:
            raise BackendUnavailableError(
                "Julia runs in the process that this one was forked from, and cannot run in both: "
                "start processes with multiprocessing.set_start_method('spawn'), start Julia only "
                "in the child, or use backend='torch' there"
            )

    def _live(self) -> None:
        while True:
            handover = self._work.get()
            handover.work()
            # Nothing of it may live on while the thread waits for the next.
            del handover


class _Handover:
    """A job on its way to the home thread, and its outcome on the way back.

    A queue for each takes half as long as a :class:`~concurrent.futures.Future`.
    """

    __slots__ = ("_done", "_error", "_is_done", "_job", "_result")

    def __init__(self, job: Callable[[], Any]) -> None:
        self._job: Callable[[], Any] | None = job
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_done = False
        self._done: SimpleQueue[None] = SimpleQueue()

    def work(self) -> None:
        """Do the job; on the home thread."""
        assert self._job is not None
        try:
            self._result = self._job()
        except BaseException as error:
            self._error = error
        self._job = None
        self._is_done = True
        self._done.put(None)

    def wait(self, stop: StopFlag | None) -> Any:
        """Wait for the outcome; an interrupt sets ``stop``, and waits for it all the same."""
        try:
            self._done.get()
        except BaseException:
            if not self._is_done and stop is not None:
                stop.set()
            # A second interrupt does not leave Julia behind in the middle of a step either.
            while not self._is_done:
                with contextlib.suppress(KeyboardInterrupt, Empty):
                    self._done.get(timeout=1)
            raise
        if self._error is not None:
            error, self._error = self._error, None  # whose traceback refers to this frame
            raise error
        return self._result


def _fulfil(future: Future[T], job: Callable[[], T]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:
        future.set_exception(error)


class CallersHome(Home):
    """The main thread, where a program started Julia before pysemi came to it.

    Work is done at once, there and nowhere else. An interrupt waits for the end of a
    solve, since the thread that would notice it is busy with the solve.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._thread = threading.main_thread()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run ``job`` at once: there is nobody else to run it."""
        future: Future[T] = Future()
        _fulfil(future, lambda: self.run(job))
        return future

    def run(self, job: Callable[[], T], stop: StopFlag | None = None) -> T:
        """Run ``job`` here.

        Raises
        ------
        BackendUnavailableError
            On another thread, or in a forked process.
        """
        if os.getpid() == self._process and threading.current_thread() is not self._thread:
            raise BackendUnavailableError(
                "juliacall was imported before pysemi started Julia, so Julia can be used on the "
                "main thread only; call pysemi.start_julia() before the first import of juliacall "
                "to use it from every thread"
            )
        return super().run(job, stop)
