"""Calls of Julia's solves: requests go in, reports come out, and failures become exceptions."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pysemi.backends.julia.events import JuliaEvent
from pysemi.backends.julia.fields import Binding
from pysemi.backends.julia.settings import JuliaSettings
from pysemi.errors import (
    ArgumentError,
    NonFiniteStateError,
    SolveError,
    StepBudgetError,
    StepSizeUnderflowError,
)
from pysemi.methods import EXPLICIT_ALGORITHMS
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.border import (
    Border,
    CBackward,
    CForward,
    CReport,
    Status,
    repeated,
)
from pysemi.runtime.home import StopFlag
from pysemi.runtime.session import Session
from pysemi.stats import SolveStats

__all__ = ["Direction", "Outcome", "call_interpolation", "raise_failure"]

_NON_FINITE = "the state became NaN or infinite; take smaller steps, or look for overflow in func"


@dataclass
class Outcome:
    """What a call across the border left behind.

    Attributes
    ----------
    message : str
        Julia's words, where it failed.
    reports : sequence of CReport
        One for each solve.
    times : list
        Of each solve's evaluations, steps, steps' sizes and rejections; none if not recorded.
    stop : StopFlag
        What ended the solves early, if anything did.
    failure : (Status, int) or None
        How the first of those that failed did, and which it is.
    """

    message: str
    reports: Sequence[CReport]
    times: Sequence[tuple[NDArray[np.float64], ...]]
    stop: StopFlag
    failure: tuple[Status, int] | None

    @property
    def solutions(self) -> list[int]:
        """Numbers of those that Julia keeps."""
        return [report.solution for report in self.reports if report.solution]

    def stats(
        self,
        name: Any,
        direction: Direction,
        norm: str,
        adjoint: Adjoint | None,
        problem: Problem,
        compile_seconds: float = 0.0,
    ) -> Iterator[SolveStats]:
        """What each solve cost, where it was recorded; forward without an adjoint."""
        state_size = problem.y0.numel() // (problem.trajectories or 1)
        parameter_size = sum(param.numel() for param in adjoint.params) if adjoint else 0
        for index, times in enumerate(self.times):
            report = self.reports[index]
            evaluations, steps, sizes, rejections = times
            yield SolveStats(
                direction=name,
                backend="julia",
                bridge=direction.bindings[0].field.bridge,
                method=direction.settings.algorithm,
                norm=norm,
                adjoint=adjoint.name if adjoint else None,
                nfe=report.nf,
                nvjp=report.nvjp,
                accepted=report.accepted,
                rejected=report.rejected,
                step_times=steps,
                step_sizes=sizes,
                rejected_times=rejections,
                evaluation_times=evaluations,
                seconds=report.seconds + compile_seconds,
                compile_seconds=compile_seconds,
                state_size=state_size,
                parameter_size=parameter_size,
                trajectory=None if problem.trajectories is None else index,
            )
            compile_seconds = 0.0  # spent once


class Direction:
    """One direction of solves that differ in nothing but numbers: all that these share.

    Parameters
    ----------
    running : Session
    name : {"forward", "backward"}
    request : CForward or CBackward
        With all members that are the same for each solve.
    settings : JuliaSettings
        Of the request; kept here, since it points into them.
    bindings : sequence of Binding
        Of fields that are all alike, one for each thread to solve on.
    events : sequence of JuliaEvent
        One, or none.
    """

    def __init__(
        self,
        running: Session,
        name: str,
        request: CForward | CBackward,
        settings: JuliaSettings,
        bindings: Sequence[Binding],
        events: Sequence[JuliaEvent] = (),
    ) -> None:
        self.settings = settings
        self.bindings = bindings[:1] if settings.calls_python else bindings
        self.session = running
        self._name = name
        self._request = request
        self._events = events
        self._fields = (ctypes.c_int64 * len(self.bindings))(
            *(binding.field.number for binding in self.bindings)
        )
        self._kind = _kind(name, request, self.bindings, events, settings)

    def solve(
        self,
        members: Mapping[str, int | None],
        stop: StopFlag,
        params_bar: Sequence[Tensor] = (),
        count: int = 1,
        each: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> Outcome:
        """Solve for the ``members`` of the request that are this solve's own.

        Parameters
        ----------
        params_bar : sequence of Tensor
            Get dL/dθ, of all the solves together.
        count : int
            How many solves these are.
        each : mapping, optional
            Members that are each one's own.
        """
        request = type(self._request).from_buffer_copy(self._request)
        for member, value in members.items():
            setattr(request, member, value)
        requests = request if count == 1 else repeated(request, count, each or {})
        reports = (CReport * count)()

        def job(border: Border) -> Outcome:
            return self._call(border, requests, reports, stop, params_bar)

        return self.session.run_solve(job, stop, self._kind)

    def _call(
        self,
        border: Border,
        requests: Any,
        reports: ctypes.Array[CReport],
        stop: StopFlag,
        params_bar: Sequence[Tensor],
    ) -> Outcome:
        for binding in self.bindings:
            if self._name == "backward":
                binding.bind_again()
            else:
                binding.bind()
        for event in self._events:
            event.bind()
        try:
            status = border.call(
                self._name,
                ctypes.addressof(requests),
                ctypes.addressof(reports),
                len(reports),
                ctypes.addressof(self._fields),
                len(self._fields),
            )
            found = list(reports)
            failure = _failure(status, [report.status for report in found])
            self.bindings[0].field.read_gradients(params_bar)
            message = "" if failure is None else border.message()
            times = [_fetch_times(border, report) for report in found if report.times]
        except BaseException:  # an interrupt that came too late for the solve
            self.session.release(*(report.solution for report in reports if report.solution))
            raise
        return Outcome(message, found, times, stop, failure)


def _failure(status: Status, of_each: Sequence[int]) -> tuple[Status, int] | None:
    if status is not Status.SUCCESS:
        return status, 0
    if not any(of_each):
        return None
    index = next(index for index, code in enumerate(of_each) if code)
    return Status(of_each[index]), index


def _kind(
    name: str,
    request: CForward | CBackward,
    bindings: Sequence[Binding],
    events: Sequence[JuliaEvent],
    settings: JuliaSettings,
) -> Hashable:
    """What decides which code runs in Julia; None where it does more than compute.

    That is where it calls Python, or shares the solves out among threads. And implicit methods
    are of packages of which little is known.
    """
    calls_python = (
        settings.calls_python
        or bindings[0].calls_python
        or any(event.address is not None for event in events)
    )
    if calls_python or len(bindings) > 1 or settings.algorithm not in EXPLICIT_ALGORITHMS:
        return None
    kept = request.keep if isinstance(request, CForward) else request.adjoint
    dtype = bindings[0].field.dtype
    return name, settings.algorithm, settings.c.torchdiffeq, kept, bool(events), dtype


def call_interpolation(
    direction: Direction, solution: int, times: Tensor, y: Tensor, stop: StopFlag
) -> Outcome:
    """Write the states at ``times``, float64, of a solve whose steps Julia keeps into ``y``."""
    binding = direction.bindings[0]

    def job(border: Border) -> Outcome:
        binding.bind()
        status = border.call(
            "interpolate",
            binding.field.number,
            solution,
            times.data_ptr(),
            len(times),
            y.data_ptr(),
            stop.address,
        )
        failure = _failure(status, ())
        return Outcome("" if failure is None else border.message(), [CReport()], (), stop, failure)

    return direction.session.run(job, stop)


def _fetch_times(border: Border, report: CReport) -> tuple[NDArray[np.float64], ...]:
    lengths = (report.evaluations, report.steps, report.steps, report.rejections)
    times = tuple(np.empty(length, dtype=np.float64) for length in lengths)
    border.call("times", report.times, *(x.ctypes.data for x in times))
    return times


def raise_failure(outcome: Outcome, name: str, direction: Direction, problem: Problem) -> NoReturn:
    """Raise what went wrong in the first solve that failed."""
    assert outcome.failure is not None
    status, index = outcome.failure
    settings, bindings = direction.settings, direction.bindings
    if status is Status.FOREIGN:
        error = settings.error or next(b.field.error for b in bindings if b.field.error)
        assert error is not None
        raise error
    if status is Status.STOPPED:
        outcome.stop.raise_error()
    if status is Status.UNKNOWN_ALGORITHM:
        raise ArgumentError(
            "method",
            f"OrdinaryDiffEq has no algorithm {settings.algorithm!r} in this Julia project",
        )
    if status is Status.NOT_DISCRETE:
        raise ArgumentError(
            "method",
            f"{settings.algorithm!r} is no explicit Runge-Kutta method, whose steps could be "
            "differentiated; use odeint_adjoint with adjoint='gauss' or 'backsolve'",
        )
    if status is Status.EVENT_IS_NAN:
        raise ArgumentError("event_fn", f"is NaN at t = {outcome.reports[index].event_time:.6g}")
    kinds: dict[Status, tuple[type[SolveError], str]] = {
        Status.NON_FINITE: (NonFiniteStateError, _NON_FINITE),
        Status.RESULT_NOT_FINITE: (NonFiniteStateError, _NON_FINITE),
        Status.UNDERFLOW: (
            StepSizeUnderflowError,
            "the step size became too small to move time forward; loosen rtol and atol, or look "
            "for a singularity or a jump in func",
        ),
        Status.EXHAUSTED: (
            StepBudgetError,
            f"{settings.c.maxiters} steps were not enough; loosen rtol and atol, use a method for "
            "stiff problems, or raise options['max_num_steps']",
        ),
        Status.FAILED: (SolveError, f"Julia failed: {outcome.message}"),
    }
    kind, text = kinds[status]
    raise _solve_failure(kind, text, outcome, index, name, problem)


def _solve_failure(
    kind: type[SolveError], text: str, outcome: Outcome, index: int, name: str, problem: Problem
) -> SolveError:
    """The exception for the solve of number ``index``, with what is known of its last step."""
    report = outcome.reports[index]
    known = {
        "t": report.t,
        "dt": report.dt,
        "error_norm": report.error_norm,
    }
    # NaN stands for a solve that made no step, but is an error norm's honest value.
    given = {key: value for key, value in known.items() if value == value or key == "error_norm"}
    trajectory = None if problem.trajectories is None else index
    return kind(text, direction=name, trajectory=trajectory, **given)
