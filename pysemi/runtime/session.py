"""The Julia in this process: started once, at the first call that needs it.

The only module that imports juliacall; diffeqpy, if the user calls it, finds the same Julia. The
variables that juliacall and PythonCall read are set here, each with its reason.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

import pysemi
from pysemi.config import JuliaConfig
from pysemi.errors import BackendUnavailableError, PysemiError
from pysemi.runtime.border import Border
from pysemi.runtime.environment import juliacall_environment
from pysemi.runtime.home import CallersHome, Gate, Home, StopFlag
from pysemi.runtime.kernels import KEEP_AFTER, KernelCompiler, kernel_folder
from pysemi.runtime.libjulia import LibJulia, julia_string
from pysemi.runtime.location import FoundJulia, find_julia

__all__ = ["Session", "julia_packages", "session", "started_session"]


T = TypeVar("T")

_log = logging.getLogger("pysemi")

END_WAIT = 5.0
"""Seconds that the end of a program waits for another thread's solve."""

COMPILED_AFTER = 15.0
"""Seconds: where loading PySemi.jl takes longer, it was compiled."""

_REMEDY = (
    "install one with `pysemi julia install`, or name one that is there with "
    "`pysemi julia use EXE --project DIR`; `pysemi doctor` says what is missing"
)


class _Running(NamedTuple):
    """A Julia that has started, and what is used of it."""

    library: LibJulia
    border: Border
    kernels: KernelCompiler | None


class _Start:
    """A Julia that is starting. It can start once per process, so a start outlives an interrupt."""

    def __init__(self, found: FoundJulia) -> None:
        # A Julia that someone else has started cannot be moved to another thread.
        already_running = found.source == "running"
        self.home = CallersHome() if already_running else Home()
        self.interrupt_handler = signal.getsignal(signal.SIGINT)
        _log.info(
            "starting Julia (the first time after an installation, PySemi.jl is compiled for some "
            "minutes)"
        )
        self._interrupts_taken = threading.Event()
        self._interrupts_returned = threading.Event()
        if already_running:  # nothing is taken, and nobody would wait
            self.interrupt_handler = None
            self._interrupts_returned.set()
        self.outcome = self.home.submit(lambda: self._run(found.julia))

    def _run(self, julia: JuliaConfig) -> _Running:
        self._signal_action = _get_signal_action(signal.SIGINT)
        try:
            with _standard_streams_unchanged():
                return _start(julia, self._let_interrupts_return)
        finally:
            self._interrupts_taken.set()

    def _let_interrupts_return(self) -> None:
        atexit.register(self._end)
        # At once: the main thread may be busy, and what is pressed meanwhile would be lost.
        _set_signal_action(signal.SIGINT, self._signal_action)
        self._interrupts_taken.set()
        # The main thread has its own way to take them back, and does so before packages load.
        self._interrupts_returned.wait(timeout=1)

    def _end(self) -> None:
        # juliacall's function for the end of a program, which was registered before and is called
        # next, crashes or hangs while somebody is in Julia, be it to load packages.
        try:
            self.home.check_process()
        except BackendUnavailableError:  # forked: it was seen to
            return
        while not self.outcome.done():
            with contextlib.suppress(KeyboardInterrupt):
                futures.wait([self.outcome])
        if not self.home.close(END_WAIT):
            _leave_julia_alone()

    def wait(self) -> _Running:
        """Wait for Julia; an interrupt ends the wait, not the start."""
        self._interrupts_taken.wait()
        self.keep_interrupts_in_python()
        self._interrupts_returned.set()
        return self.outcome.result()

    def keep_interrupts_in_python(self) -> None:
        """Give Ctrl-C back to Python: Julia's start takes it, and then it is lost.

        Only the main thread can, so this may have to wait for the first call from there.
        """
        handler = self.interrupt_handler
        if handler is None or threading.current_thread() is not threading.main_thread():
            return
        self.interrupt_handler = None
        signal.signal(signal.SIGINT, handler)
        with contextlib.suppress(AttributeError, ValueError):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Session:
    """A running Julia with PySemi.jl loaded.

    Attributes
    ----------
    home : Home
        The thread that Julia lives on.
    library : LibJulia
        For that thread alone.
    """

    def __init__(self, start: _Start) -> None:
        self.home = start.home
        self._released: list[int] = []
        self._solved: set[Hashable] = set()
        self._blas_threads = 0
        self._blas_threads_told = _blas_threads_told()
        self.library, self._border, self._kernels = start.wait()
        self._start = start
        self.home.run(self._open_home)

    def _open_home(self) -> None:
        gate = _gate(self.library)
        if gate is not None:
            self.home.open(gate)

    @property
    def threads(self) -> int:
        """How many threads solves may be spread over."""
        return self._border.threads

    def compile_kernels(self, name: str) -> None:
        """Have a package of kernels, which Julia has written, compiled in the background."""
        assert self._kernels is not None  # else Julia was told of no folder to write to
        self._kernels.compile(name)

    def run(self, job: Callable[[Border], T], stop: StopFlag | None = None) -> T:
        """Run ``job`` on the home thread, with the border's C functions at hand.

        Calls across the border release Python's lock. ``stop`` is set if the wait is
        interrupted.
        """
        self._start.keep_interrupts_in_python()
        return self._run_at_home(job, stop)

    def run_solve(self, job: Callable[[Border], T], stop: StopFlag, kind: Hashable) -> T:
        """Run ``job``, which solves, on the calling thread if that may enter; else at home.

        Parameters
        ----------
        stop : StopFlag
            The solve's own.
        kind : hashable
            What decides which code runs in Julia. The first of each runs at home: it may load
            packages and print, and whoever waits for Julia's input and output on another thread
            does so for ever. None: each runs at home.
        """
        self._start.keep_interrupts_in_python()
        if kind not in self._solved or not self.home.admits_caller:
            result = self._run_at_home(job, stop)
            if kind is not None:
                self._solved.add(kind)
            return result
        threads = torch.get_num_threads()
        if self._blas_threads_for(threads) != self._blas_threads:
            self.home.run(lambda: self._use_threads(threads))

        def here() -> T:
            if self._released:
                self._release_waiting()
            return job(self._border)

        return self.home.run_here(here, stop)

    def _run_at_home(self, job: Callable[[Border], T], stop: StopFlag | None) -> T:
        threads = torch.get_num_threads()  # of the caller: torch keeps it for each thread

        def at_home() -> T:
            self._release_waiting()
            self._use_threads(threads)
            return job(self._border)

        return self.home.run(at_home, stop)

    def evaluate(self, code: str) -> Any:
        """Evaluate Julia code on the home thread; for information, not for hot paths.

        Raises
        ------
        PysemiError
            With Julia's words, if Julia raises.
        """

        def at_home() -> Any:
            from juliacall import Main

            try:
                return _plain(Main.seval(code))
            except Exception as error:
                # As in _start: no exception of Julia's leaves its thread.
                problem = PysemiError(f"Julia cannot evaluate {code!r}: {_first_lines(error)}")
            raise problem

        return self.home.run(at_home)

    def release(self, *numbers: int) -> None:
        """Let Julia forget what it holds under ``numbers``, at the next call.

        May be called from anywhere, a finalizer included.
        """
        self._released += numbers  # atomic; a lock here could deadlock a finalizer

    def _release_waiting(self) -> None:
        while self._released:
            self._border.call("release", self._released.pop())

    def _use_threads(self, threads: int) -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # for vector fields that run here by callback
        threads = self._blas_threads_for(threads)
        if threads != self._blas_threads:
            self.library.text(f"PySemi.BLAS.set_num_threads({threads})")
            self._blas_threads = threads

    def _blas_threads_for(self, threads: int) -> int:
        return self._blas_threads_told or threads


_session: Session | None = None
_begun: _Start | None = None
_starting = threading.Lock()


def _begin_forked() -> None:
    """Leave Julia behind, in a process that was forked from the one that it runs in."""
    global _starting
    # The thread that held it is not in this process, and nobody would ever let go of it.
    _starting = threading.Lock()
    # Without Julia's threads it crashes.
    library = _leave_julia_alone()
    if library is None:
        return
    # So does Julia's function by which Python lets go of Julia's values, also at the end.
    for value in vars(sys.modules["juliacall"]).values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _leave_julia_alone() -> Any:
    """Let juliacall call nothing at the end of the program; return Julia's library."""
    library = getattr(sys.modules.get("juliacall"), "CONFIG", {}).get("lib")
    if library is not None:
        library.jl_atexit_hook = lambda _status: None
    return library


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked)


def session(meanwhile: Callable[[], None] | None = None) -> Session:
    """The running Julia; starts it if need be.

    Parameters
    ----------
    meanwhile : callable, optional
        Called while Julia starts, which takes some seconds.

    Raises
    ------
    BackendUnavailableError
        If there is no Julia, or it cannot be used; the message names the command
        that mends it.
    """
    global _session, _begun
    running = started_session()
    if running is not None:
        running.home.check_process()
        return running
    with _starting:
        running = started_session()  # another thread may have been quicker
        if running is not None:
            return running
        if _begun is None:
            found = find_julia()
            if found is None:
                raise BackendUnavailableError(f"there is no Julia: {_REMEDY}")
            _begun = _Start(found)
        _begun.home.check_process()
        if meanwhile is not None:
            with _interrupts_later():
                meanwhile()
        _session = Session(_begun)
    return _session


def started_session() -> Session | None:
    """The running Julia, or None if none was started yet."""
    return _session


def julia_packages() -> Path:
    """The folder that holds PySemi.jl: inside the installed package, or beside it."""
    package = Path(__file__).parent.parent
    for folder in (package / "julia", package.parent / "julia"):
        if (folder / "PySemi" / "Project.toml").is_file():
            return folder
    raise BackendUnavailableError(
        f"PySemi.jl is not where it was installed ({package / 'julia'}); reinstall pysemi"
    )


def _start(julia: JuliaConfig, initialised: Callable[[], None]) -> _Running:
    variables = {
        **juliacall_environment(julia),
        # Julia's garbage collector stops its threads by signals; without this it crashes
        # as soon as there are two.
        "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
        # For independent trajectories; never fewer than torch uses now.
        "PYTHON_JULIACALL_THREADS": _threads(),
        # diffeqpy looks for the program on PATH, also when the user calls it later.
        "PATH": os.pathsep.join([str(julia.executable.parent), os.environ.get("PATH", "")]),
    }
    folder = julia_packages()
    try:
        os.environ.update(variables)
        with warnings.catch_warnings():
            # pysemi needs torch first; both orders are tested.
            warnings.filterwarnings("ignore", "torch was imported before juliacall")
            import juliacall
        initialised()

        # One that Julia itself has started has no name for its library, which is in the process.
        library = LibJulia(juliacall.CONFIG.get("lib") or ctypes.PyDLL(None))
        library.text(f"push!(LOAD_PATH, {julia_string(str(folder))})")
        began = time.monotonic()
        # It takes seconds, in which the caller can do something else.
        library.text("Core.eval(Main, :(using PySemi))", locked=False)
        version = library.text("pkgversion(PySemi)")
        if version != pysemi.__version__:
            raise BackendUnavailableError(
                f"it is version {version} and pysemi is {pysemi.__version__}; reinstall pysemi"
            )
        if time.monotonic() - began > COMPILED_AFTER:
            library.text("PySemi.compile_adjoints()", locked=False)
        points = dict(line.split("\t") for line in library.text("PySemi.listing()").splitlines())
        signal_functions = ", ".join(map(str, _signal_functions()))
        library.text(f"PySemi.look_for_signals_by({signal_functions})")
        kept_in = kernel_folder()
        kernels = None
        if kept_in is not None:
            arguments = f"{julia_string(str(kept_in))}, {KEEP_AFTER}"
            command = library.text(f"PySemi.keep_kernels({arguments})")
            kernels = KernelCompiler(command.split("\0"))
    except Exception as error:
        # Julia's exceptions call Julia for their text, and on another thread that may hang.
        cause = None if type(error).__name__ == "JuliaError" else error
        raise BackendUnavailableError(
            f"Julia ({julia.executable}, project {julia.project}) could not load PySemi.jl: "
            f"{_first_lines(error)}; `pysemi doctor` checks it step by step"
        ) from cause
    border = Border({name: int(value) for name, value in points.items()})
    return _Running(library, border, kernels)


def _gate(library: LibJulia) -> Gate | None:
    """Julia's functions for a thread that goes out for a while; None where there are none."""
    names = ("jl_gc_safe_enter", "jl_gc_safe_leave")
    try:
        leave, enter = (int(library.text(f"Int(cglobal(:{name}))")) for name in names)
    except PysemiError:
        _log.info("this Julia has no %s: all solves are handed to its own thread", names[0])
        return None
    # Calls that keep Python's lock: they are over at once.
    return Gate(
        ctypes.PYFUNCTYPE(ctypes.c_int8)(leave), ctypes.PYFUNCTYPE(None, ctypes.c_int8)(enter)
    )


_get_signal_action = ctypes.pythonapi.PyOS_getsig
_get_signal_action.argtypes, _get_signal_action.restype = [ctypes.c_int], ctypes.c_void_p

_set_signal_action = ctypes.pythonapi.PyOS_setsig  # unlike signal.signal, on any thread
_set_signal_action.argtypes = [ctypes.c_int, ctypes.c_void_p]
_set_signal_action.restype = ctypes.c_void_p


def _signal_functions() -> list[int]:
    """Addresses of what a solve needs, that lets Python handle its signals."""
    names = ("PyGILState_Ensure", "PyErr_CheckSignals", "PyErr_Fetch", "PyGILState_Release")
    functions = (ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p) for name in names)
    return [function.value or 0 for function in functions]


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Let Ctrl-C wait: an import of torch's that is interrupted cannot be made again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if handler is None:  # not Python's, which cannot be put back
        yield
        return
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _standard_streams_unchanged() -> Iterator[None]:
    """Give Python its streams back as they were: Julia makes pipes return without waiting.

    A program whose input is a pipe would come to its end too early, and so would one that
    shares the pipe.
    """
    blocking = {}
    for descriptor in (0, 1, 2):
        # One may be closed, as those of a service are, or be no pipe on this system.
        with contextlib.suppress(OSError, AttributeError):
            blocking[descriptor] = os.get_blocking(descriptor)
    try:
        yield
    finally:
        for descriptor, value in blocking.items():
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, value)


def _threads() -> str:
    """How many threads Julia starts with: torch's, unless the environment says otherwise."""
    for variable in ("PYTHON_JULIACALL_THREADS", "JULIA_NUM_THREADS"):
        told = os.environ.get(variable, "")
        if told:
            return told
    return str(torch.get_num_threads())


def _blas_threads_told() -> int:
    """What the environment says when Julia starts; 0 for nothing."""
    told = os.environ.get("PYSEMI_BLAS_THREADS", "")
    return int(told) if told.isdecimal() else 0


def _plain(value: Any) -> Any:
    """A Julia value as Python's own, so that no reference to Julia leaves the home thread."""
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _first_lines(error: BaseException, count: int = 3) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " / ".join(lines[:count]) or type(error).__name__
