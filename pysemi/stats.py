"""What a solve cost: :class:`SolveStats`, and :func:`record`, which collects them.

Counting is done by the backends; this module only says what is counted and
who gets to see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Recording", "SolveStats", "open_recordings", "publish", "record"]

Times = NDArray[np.float64]


def _no_times() -> Times:
    return np.empty(0, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class SolveStats:
    """Work done by one forward or one backward solve.

    A backward solve over several observation times is one solve: the counts
    cover all its intervals. Each of a batch of independent trajectories is a solve.

    Attributes
    ----------
    direction : {"forward", "backward"}
    backend : str
        ``"torch"`` or ``"julia"``.
    bridge : str or None
        How the Julia backend evaluated the vector field (``"compiled"`` or
        ``"callback"``); None on torch.
    method : str
        Name of the solver.
    adjoint : str or None
        Name of the adjoint for a backward solve, None for a forward solve.
    norm : str
        Name of the norm that accepted or rejected the steps.
    nfe : int
        Evaluations of the vector field, those of rejected steps, of the initial
        step selection and of dL/dt included. This is the paper's NFE.
    nvjp : int
        Vector-Jacobian products of the vector field.
    accepted, rejected : int or None
        Steps kept and steps thrown away; None where the method does not report
        its steps (``scipy_solver``). Steps on a fixed grid are all accepted.
    step_times, step_sizes : ndarray of float64
        For each accepted step, the time it started from and its length (always
        positive), in the order in which they were made.
    rejected_times : ndarray of float64
        For each rejected step, the time it started from.
    evaluation_times : ndarray of float64
        The time of every evaluation counted by ``nfe``.
    seconds : float
        Wall time of the solve.
    compile_seconds : float
        Part of the wall time spent on tracing and compiling (0 on torch).
    state_size : int
        Channels of the state y, all entries of a batch together (d in the paper's
        section 3.4).
    parameter_size : int
        Parameters that a backward solve finds the gradient of (the paper's p); 0 forward.
    trajectory : int or None
        Of independent trajectories, each has its own statistics: which one this is.
    """

    direction: Literal["forward", "backward"]
    backend: str
    method: str
    norm: str
    nfe: int
    nvjp: int = 0
    accepted: int | None = None
    rejected: int | None = None
    bridge: str | None = None
    adjoint: str | None = None
    step_times: Times = field(default_factory=_no_times, repr=False)
    step_sizes: Times = field(default_factory=_no_times, repr=False)
    rejected_times: Times = field(default_factory=_no_times, repr=False)
    evaluation_times: Times = field(default_factory=_no_times, repr=False)
    seconds: float = 0.0
    compile_seconds: float = 0.0
    state_size: int = 0
    parameter_size: int = 0
    trajectory: int | None = None


class Recording:
    """The solves made while a :func:`record` block was open.

    Attributes
    ----------
    forward, backward : list of SolveStats
        In the order in which the solves ended.
    """

    def __init__(self) -> None:
        self.forward: list[SolveStats] = []
        self.backward: list[SolveStats] = []
        self._is_open = True

    def _add(self, stats: SolveStats) -> None:
        # list.append is atomic, so solves of several threads need no lock.
        if self._is_open:
            (self.forward if stats.direction == "forward" else self.backward).append(stats)

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Recording: {len(self.forward)} forward, {len(self.backward)} backward, {state}>"


_OPEN: ContextVar[tuple[Recording, ...]] = ContextVar("pysemi_open_recordings", default=())


@contextmanager
def record() -> Iterator[Recording]:
    """Collect the statistics of every solve made inside the block.

    Blocks nest: a solve is seen by every block around it. A block belongs to
    the context that opened it (see :mod:`contextvars`): other threads' solves are
    not seen, with one exception: a backward solve is also seen by the blocks
    that were open around its *forward* solve, whichever thread autograd runs it
    on, as long as they are still open. Blocks that have ended see nothing more.

    Outside any block no times are kept; steps are still counted, for the step
    budget and for error messages.

    Yields
    ------
    Recording
        With the lists ``forward`` and ``backward`` of :class:`SolveStats`.

    Examples
    --------
    >>> with pysemi.record() as r:
    ...     y = pysemi.odeint_adjoint(func, y0, t)
    ...     y[-1].sum().backward()
    >>> r.forward[0].nfe, r.backward[0].rejected  # doctest: +SKIP
    (32, 1)
    """
    recording = Recording()
    token = _OPEN.set((*_OPEN.get(), recording))
    try:
        yield recording
    finally:
        recording._is_open = False
        _OPEN.reset(token)


def open_recordings() -> tuple[Recording, ...]:
    """The recordings open around the caller, outermost first."""
    return _OPEN.get()


def publish(stats: SolveStats, recordings: Iterable[Recording]) -> None:
    """Add ``stats`` once to each of ``recordings`` that is still open."""
    for recording in dict.fromkeys(recordings):
        recording._add(stats)
