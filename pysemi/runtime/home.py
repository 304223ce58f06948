"""Julia's home: a thread of its own, and who else may enter.

Entering Julia from two threads at a time crashes, and a garbage collection on another thread
than the one that started it hangs while that one is in Python. So Julia is started and used on
one thread of this process, and everyone else hands over work and waits.

To hand over takes longer than a small solve: two threads have to wake up, and the solve finds
nothing in its core's caches. The main thread may therefore enter by itself, once the home
thread waits for work in a way that Julia knows of (a :class:`Gate`), and as long as nobody
else is inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from pysemi.errors import BackendUnavailableError
from pysemi.runtime.border import CStop

__all__ = ["CallersHome", "Gate", "Home", "StopFlag"]

T = TypeVar("T")


class StopFlag:
    """Memory that a running solve looks at, to see whether it is to end.

    Attributes
    ----------
    address : int
    """

    def __init__(self) -> None:
        self._memory = CStop()
        self.address = ctypes.addressof(self._memory)

    def set(self) -> None:
        """Ask the solve to end."""
        self._memory.asked = 1

    @property
    def is_set(self) -> bool:
        """Whether it was asked to."""
        return bool(self._memory.asked)

    def look_for_signals(self) -> None:
        """Have the solve let Python handle its signals now and then.

        It runs on the main thread, on which alone Python handles any.
        """
        self._memory.looks = 1

    def raise_error(self) -> None:
        """Raise what a signal's handler raised, which ended the solve; KeyboardInterrupt if none.

        A solve that was asked to end by someone else was so for an interrupt.
        """
        memory = self._memory
        if memory.kind is not None:
            error = memory.kind, memory.value, memory.traceback
            memory.kind = memory.value = memory.traceback = None
            ctypes.pythonapi.PyErr_Restore(*map(ctypes.c_void_p, error))  # raises it
        raise KeyboardInterrupt


class Gate(NamedTuple):
    """How the home thread tells Julia that it is out for a while, and that it is back.

    Meanwhile Julia can collect garbage on another thread.

    Attributes
    ----------
    leave : callable
        Returns what ``enter`` wants to know.
    enter : callable
    """

    leave: Callable[[], int]
    enter: Callable[[int], object]


class Home:
    """A thread that runs what it is handed, in order.

    It belongs to the process that made it: after a fork, the child's copy refuses.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[_Handover] = SimpleQueue()
        self._process = os.getpid()
        self._inside = threading.Lock()  # held by whoever is in Julia
        self._guest: int | None = None  # the thread that is, where it is not the home thread
        self._gate: Gate | None = None
        self._is_closed = False
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
        if threading.current_thread() is self._thread or threading.get_ident() == self._guest:
            return job()  # a vector field or a signal's handler, called from a solve, that solves
        self.check_process()
        handover = _Handover(job)
        self._work.put(handover)
        return handover.wait(stop)  # type: ignore[no-any-return]

    def open(self, gate: Gate) -> None:
        """Let the main thread enter from now on; called on the home thread."""
        self._gate = gate

    @property
    def admits_caller(self) -> bool:
        """Whether :meth:`run_here` may be called now, on this thread."""
        # No other threads: Julia keeps something of each that ever entered.
        return self._gate is not None and threading.get_ident() == threading.main_thread().ident

    def run_here(self, job: Callable[[], T], stop: StopFlag) -> T:
        """Run ``job`` on the calling thread, which :attr:`admits_caller` was true of.

        Parameters
        ----------
        stop : StopFlag
            Is told to look for signals, that Python cannot see to while the job is in Julia.
        """
        self.check_process()
        stop.look_for_signals()
        if threading.get_ident() == self._guest:
            return job()
        with self._inside:
            try:
                self._guest = threading.get_ident()
                return job()
            finally:
                self._guest = None

    def close(self, timeout: float) -> bool:
        """Let nobody in any more, for the end of the program.

        The main thread is told so; other threads wait, and are not heard of any more.

        Returns
        -------
        bool
            False if somebody was inside for ``timeout`` seconds.
        """
        self._is_closed = True
        return self._inside.acquire(timeout=timeout)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Hand ``job`` over without waiting for it."""
        future: Future[T] = Future()
        self._work.put(_Handover(lambda: _fulfil(future, job)))
        return future

    def check_process(self) -> None:
        """Raise BackendUnavailableError in a process forked from Julia's, or at its end."""
        if self._is_closed and threading.current_thread() is threading.main_thread():
            raise BackendUnavailableError("Julia has ended with the program; solve before its end")
        if os.getpid() != self._process:
            raise BackendUnavailableError(
                "Julia runs in the process that this one was forked from, and cannot run in both: "
                "start processes with multiprocessing.set_start_method('spawn'), start Julia only "
                "in the child, or use backend='torch' there"
            )

    def _live(self) -> None:
        outside: int | None = None
        while True:
            handover = self._work.get()
            with self._inside:
                if self._gate is not None and outside is not None:
                    self._gate.enter(outside)
                handover.work()
                # Nothing of it may live on while the thread waits for the next, or is outside.
                del handover
                if self._gate is not None:
                    outside = self._gate.leave()


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

    Work is done at once, there and nowhere else. An interrupt waits for the end of what
    :meth:`run` was given, since the thread that would notice it is busy with it.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._thread = threading.main_thread()
        self._guest = None
        self._is_closed = False

    @property
    def admits_caller(self) -> bool:
        """Whether this is the main thread."""
        return threading.current_thread() is self._thread

    def run_here(self, job: Callable[[], T], stop: StopFlag) -> T:
        """Run ``job`` here."""
        self.check_process()
        stop.look_for_signals()
        return job()

    def close(self, timeout: float) -> bool:  # noqa: ARG002
        """As there; nobody can be inside while the main thread is here."""
        self._is_closed = True
        return True

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
