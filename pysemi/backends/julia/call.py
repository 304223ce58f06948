"""Calls of Julia's solves: requests go in, reports come out, and failures become exceptions."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from pysemi.problem import Problem
from pysemi.runtime.border import Border, CForward, CReport, Status
from pysemi.runtime.home import StopFlag
from pysemi.runtime.session import Session
from pysemi.stats import SolveStats

__all__ = ["Outcome", "call_solves", "raise_failure", "solve_failure"]

_NON_FINITE = "the state became NaN or infinite; take smaller steps, or look for overflow in func"


@dataclass
class Outcome:
    """What a call across the border left behind.

    Attributes
    ----------
    status : Status
        Of the call; each report has one of its own.
    message : str
    reports : sequence of CReport
        One for each solve.
    times : list
        Of each solve's evaluations, steps, steps' sizes and rejections; none if not recorded.
    stop : StopFlag
        What ended the solves early, if anything did.
    """

    status: Status
    message: str
    reports: Sequence[CReport]
    times: list[tuple[NDArray[np.float64], ...]]
    stop: StopFlag

    @property
    def solutions(self) -> list[int]:
        """Numbers of those that Julia keeps."""
        return [report.solution for report in self.reports if report.solution]

    @property
    def failure(self) -> tuple[Status, int] | None:
        """How the first of those that failed did, and which it is."""
        if self.status is not Status.SUCCESS:
            return self.status, 0
        for index, report in enumerate(self.reports):
            if report.status:
                return Status(report.status), index
        return None

    def stats(
        self,
        direction: Any,
        binding: Binding,
        settings: JuliaSettings,
        norm: str,
        adjoint: str | None,
        problem: Problem,
        compile_seconds: float = 0.0,
    ) -> Iterator[SolveStats]:
        """What each solve cost, where it was recorded."""
        for index, times in enumerate(self.times):
            report = self.reports[index]
            evaluations, steps, sizes, rejections = times
            yield SolveStats(
                direction=direction,
                backend="julia",
                bridge=binding.field.bridge,
                method=settings.algorithm,
                norm=norm,
                adjoint=adjoint,
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
                trajectory=None if problem.trajectories is None else index,
            )
            compile_seconds = 0.0  # spent once


def call_solves(
    running: Session,
    name: str,
    requests: ctypes.Array[Any],
    bindings: Sequence[Binding],
    events: Sequence[JuliaEvent],
    settings: JuliaSettings,
    stop: StopFlag,
) -> Outcome:
    """Solve "forward" or "backward", a problem for each request, by fields that are all alike."""
    count = len(requests)
    reports = (CReport * count)()
    fields = (ctypes.c_int64 * len(bindings))(*(binding.field.number for binding in bindings))

    def job(border: Border) -> Outcome:
        for binding in bindings:
            if name == "backward":
                binding.bind_again()
            else:
                binding.bind()
        for event in events:
            event.bind()
        try:
            status = border.call(
                name,
                ctypes.addressof(requests),
                ctypes.addressof(reports),
                count,
                ctypes.addressof(fields),
                len(fields),
            )
            failed = status is Status.FAILED or any(r.status == Status.FAILED for r in reports)
            message = border.message() if failed else ""
            times = [_fetch_times(border, report) for report in reports if report.times]
        except BaseException:  # an interrupt that came too late for the solve
            running.release(*(report.solution for report in reports if report.solution))
            raise
        return Outcome(status, message, list(reports), times, stop)

    return running.run_solve(job, stop, _kind(name, requests[0], bindings, events, settings))


def _kind(
    name: str,
    request: Any,
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
    running: Session, binding: Binding, solution: int, times: Tensor, y: Tensor, stop: StopFlag
) -> Outcome:
    """Write the states at ``times``, float64, of a solve whose steps Julia keeps into ``y``."""

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
        message = border.message() if status is Status.FAILED else ""
        return Outcome(status, message, [CReport()], [], stop)

    return running.run(job, stop)


def _fetch_times(border: Border, report: CReport) -> tuple[NDArray[np.float64], ...]:
    lengths = (report.evaluations, report.steps, report.steps, report.rejections)
    times = tuple(np.empty(length, dtype=np.float64) for length in lengths)
    border.call("times", report.times, *(x.ctypes.data for x in times))
    return times


def raise_failure(
    outcome: Outcome,
    direction: str,
    settings: JuliaSettings,
    problem: Problem,
    bindings: Sequence[Binding],
) -> None:
    """Raise what went wrong in the first solve that failed, if one did."""
    failure = outcome.failure
    if failure is None:
        return
    status, index = failure
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
    raise solve_failure(kind, outcome, index, direction, problem, text)


def solve_failure(
    kind: type[SolveError],
    outcome: Outcome,
    index: int,
    direction: str,
    problem: Problem,
    text: str = _NON_FINITE,
) -> SolveError:
    """The exception for the solve of number ``index``, with what is known of its last step."""
    report = outcome.reports[index]
    known = {
        "t": report.t,
        "dt": report.dt,
        "error_norm": report.error_norm,
    }
    # NaN stands for a solve that made no step, but is an error norm's honest value.
    given = {name: value for name, value in known.items() if value == value or name == "error_norm"}
    trajectory = None if problem.trajectories is None else index
    return kind(text, direction=direction, trajectory=trajectory, **given)
