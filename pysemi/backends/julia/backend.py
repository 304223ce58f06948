"""The story of a solve in Julia."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.backends.base import Backend, Gradients, Solution
from pysemi.backends.julia.acceptance import check_adjoint, check_problem
from pysemi.backends.julia.call import (
    call_interpolation,
    call_solves,
    raise_failure,
    solve_failure,
)
from pysemi.backends.julia.discrete import checkpoints, discrete_adjoint
from pysemi.backends.julia.events import prepare_event
from pysemi.backends.julia.fields import Binding
from pysemi.backends.julia.gradients import (
    all_finite,
    by_time,
    by_trajectory,
    gradients,
    start_in_one,
)
from pysemi.backends.julia.preparation import prepare_fields
from pysemi.backends.julia.settings import adjoint_settings, forward_settings
from pysemi.errors import ArgumentError, NonFiniteStateError
from pysemi.kept import kept_compilations
from pysemi.norms import StateNorm
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.border import CBackward, CForward, repeated
from pysemi.runtime.home import StopFlag
from pysemi.runtime.session import Session, session
from pysemi.stats import Recording, publish
from pysemi.warn import warn_caller

__all__ = ["JuliaBackend"]

ADJOINTS = {"backsolve": 0, "gauss": 1, "discrete": 2, "interpolating": 3, "quadrature": 4}
"""By their numbers in Julia."""

KEPT = {"backsolve": 1, "interpolating": 2, "gauss": 2, "quadrature": 2, "discrete": 3}
"""What a forward solve leaves for them: the states at the observation times, the whole
solution, or its steps."""


class JuliaBackend(Backend):
    """Solves by OrdinaryDiffEq, and the adjoints by SciMLSensitivity.

    The adjoint "discrete" is PySemi.jl's own.
    """

    name: ClassVar[str] = "julia"
    solves_batches: ClassVar[bool] = True

    def __init__(self, bridge: str = "auto", verify: str = "first") -> None:
        self._bridge = bridge
        self._verify = verify

    def start(self) -> None:
        """Start Julia, if it does not run yet."""
        session(meanwhile=_warm_up)

    def accept(self, problem: Problem, adjoint: Adjoint | None, bridge: str) -> Adjoint | None:
        """Refuse what this backend does not have; the discrete gradient has an adjoint here."""
        check_problem(problem, bridge)
        if adjoint is None:
            return discrete_adjoint(problem.one)
        check_adjoint(problem, adjoint)
        return adjoint

    def solve(self, problem: Problem, recordings: Sequence[Recording]) -> Solution:
        """Solve forward; the outputs carry no gradient."""
        with torch.no_grad():
            return self._forward(problem, None, recordings)

    def solve_forward(
        self,
        problem: Problem,
        adjoint: Adjoint,
        recordings: Sequence[Recording],
    ) -> Solution:
        """Solve forward, and keep in Julia what the backward solve starts from."""
        return self._forward(problem, adjoint, recordings)

    def solve_dense(
        self, problem: Problem, adjoint: Adjoint | None, recordings: Sequence[Recording]
    ) -> Solution:
        """Solve forward, and keep the steps in Julia; they are made again where one is needed."""
        kept = adjoint or Adjoint("discrete", problem.settings, ())
        with torch.no_grad():
            return self._forward(problem, kept, recordings)

    def interpolate(self, solution: Solution, t: Tensor) -> Solution:
        """The states at other times within a solve that keeps its steps."""
        memory: _Memory = solution.memory
        if memory.kept.versions != memory.bindings[0].versions:
            raise ArgumentError(
                "t",
                "a tensor that func reads was changed after the solve, whose steps would be others "
                "now; solve again",
            )
        times = t.detach().to(device="cpu", dtype=torch.float64).contiguous()
        y = torch.empty((len(times), *memory.problem.y0.shape), dtype=memory.problem.y0.dtype)
        outcome = call_interpolation(
            memory.session, memory.bindings[0], memory.numbers[0], times, y, StopFlag()
        )
        raise_failure(
            outcome, "forward", forward_settings(memory.problem), memory.problem, memory.bindings
        )
        return Solution(y, memory=memory.at(replace(memory.problem, t=t)))

    def solve_backward(
        self, solution: Solution, cotangents: Sequence[Tensor], recordings: Sequence[Recording]
    ) -> Gradients:
        """Solve the adjoint of the forward solve that ``solution`` came from."""
        memory: _Memory = solution.memory
        problem, adjoint = memory.problem, memory.adjoint
        # An event's time has its gradient from pysemi.odeint_event, as in torchdiffeq.
        dense = by_trajectory(problem, cotangents[-1].detach()).to(problem.y0.dtype).contiguous()
        y_bar = torch.empty_like(problem.y0, memory_format=torch.contiguous_format)
        packed = memory.bindings[0].field.packed
        params_bar = torch.empty(packed, dtype=problem.y0.dtype)
        if not all_finite(dense):
            # As a gradient scaler may send, to see it come through; no step could be taken.
            y_bar.fill_(torch.nan)
            params_bar.fill_(torch.nan)
            return gradients(problem, adjoint, solution, dense, y_bar, params_bar)
        settings = adjoint_settings(problem.one, adjoint, packed)
        times, observed = None, dense
        if memory.is_interpolated:
            times = problem.t.detach().to(device="cpu", dtype=torch.float64).contiguous()
            observed = start_in_one(times, dense)
        stop = StopFlag()
        request = CBackward(
            solution=memory.numbers[0],
            settings=settings.c,
            adjoint=ADJOINTS[adjoint.name],
            times=None if times is None else times.data_ptr(),
            ntimes=0 if times is None else len(times),
            cotangents=observed.data_ptr(),
            y_bar=y_bar.data_ptr(),
            params_bar=params_bar.data_ptr(),
            recording=int(bool(recordings)),
            stop=stop.address,
        )
        each: dict[str, NDArray[np.int64]] = {}
        if problem.trajectories is not None:
            each = {
                "solution": np.asarray(memory.numbers),
                "cotangents": _rows(observed),
                "y_bar": _rows(y_bar),
            }
        requests = repeated(request, problem.trajectories or 1, each)
        bindings = memory.bindings[:1] if settings.calls_python else memory.bindings
        outcome = call_solves(memory.session, "backward", requests, bindings, (), settings, stop)
        raise_failure(outcome, "backward", settings, problem, bindings)
        if not (all_finite(y_bar) and all_finite(params_bar)):
            raise solve_failure(
                NonFiniteStateError, outcome, _first_non_finite(problem, y_bar), "backward", problem
            )
        if outcome.reports[0].implicit and adjoint.params:
            _warn_of_inaccurate(adjoint, settings.algorithm)
        for stats in outcome.stats(
            "backward", bindings[0], settings, adjoint.settings.norm.name, adjoint.name, problem
        ):
            publish(stats, recordings)
        return gradients(problem, adjoint, solution, dense, y_bar, params_bar)

    def _forward(
        self,
        problem: Problem,
        adjoint: Adjoint | None,
        recordings: Sequence[Recording],
    ) -> Solution:
        running = session(meanwhile=_warm_up)
        bindings, compile_seconds = prepare_fields(
            running, problem, adjoint, self._bridge, self._verify
        )
        count = problem.trajectories or 1
        y0 = problem.y0.detach().contiguous()
        times = problem.t.detach().to(device="cpu", dtype=torch.float64).contiguous()
        y = torch.empty((count, times.shape[-1], *problem.one.y0.shape), dtype=y0.dtype)
        settings = forward_settings(problem.one)
        event = None
        if problem.event_fn is not None:
            event, seconds = prepare_event(
                running, problem, problem.event_fn, self._bridge, self._verify
            )
            compile_seconds += seconds
        stop = StopFlag()
        request = CForward(
            settings=settings.c,
            times=times.data_ptr(),
            ntimes=times.shape[-1],
            y0=y0.data_ptr(),
            y=y.data_ptr(),
            keep=0 if adjoint is None else KEPT[adjoint.name],
            checkpoints=checkpoints(problem),
            recording=int(bool(recordings)),
            stop=stop.address,
            event=None if event is None else event.address,
            event_field=0 if event is None else event.number,
        )
        each: dict[str, NDArray[np.int64]] = {}
        if problem.trajectories is not None:
            each = {"y0": _rows(y0), "y": _rows(y)}
            if times.ndim == 2:
                each["times"] = _rows(times)
        requests = repeated(request, count, each)
        if settings.calls_python:
            bindings = bindings[:1]
        events = () if event is None else (event,)
        outcome = call_solves(running, "forward", requests, bindings, events, settings, stop)
        memory = None
        if adjoint is not None:
            kept = _Kept(running, outcome.solutions, bindings[0])
            memory = _Memory(running, problem, adjoint, bindings, kept)
        if event is not None and event.error is not None:
            raise event.error
        raise_failure(outcome, "forward", settings, problem, bindings)
        if not all_finite(y):
            raise solve_failure(
                NonFiniteStateError, outcome, _first_non_finite(problem, y), "forward", problem
            )
        for stats in outcome.stats(
            "forward",
            bindings[0],
            settings,
            problem.settings.norm.name,
            None,
            problem,
            compile_seconds,
        ):
            publish(stats, recordings)
        event_t = None
        if event is not None:
            event_t = torch.tensor(outcome.reports[0].event_time, dtype=problem.t.dtype)
        return Solution(by_time(problem, y), event_t, memory=memory)


def _warm_up() -> None:
    """Let torch prepare to trace, unless what is to be solved may well be on disk.

    It takes longer than Julia's start, which would be waited for alone then.
    """
    kept = kept_compilations()
    if kept is None or kept.count == 0:
        from pysemi.compiler.trace import warm_up  # with all that tracing needs

        warm_up()


class _Kept:
    """Forward solves that Julia keeps; let go of with this object."""

    def __init__(self, running: Session, numbers: Sequence[int], binding: Binding) -> None:
        self.numbers = numbers
        self.versions = binding.versions
        weakref.finalize(self, running.release, *numbers)


@dataclass
class _Memory:
    """What a backward solve starts from.

    Attributes
    ----------
    problem : Problem
        Its times are those that cotangents belong to.
    is_interpolated : bool
        Whether these are others than the forward solve's.
    """

    session: Session
    problem: Problem
    adjoint: Adjoint
    bindings: Sequence[Binding]
    kept: _Kept
    is_interpolated: bool = False

    @property
    def numbers(self) -> Sequence[int]:
        """Of the solves, in Julia."""
        return self.kept.numbers

    def at(self, problem: Problem) -> _Memory:
        """The same solve, seen at other times."""
        return replace(self, problem=problem, is_interpolated=True)


STIFF_INTERPOLANTS = ("auto", "Rodas")
"""Beginnings of the names of implicit methods whose interpolant follows a stiff solution."""


def _warn_of_inaccurate(adjoint: Adjoint, algorithm: str) -> None:
    """Say where long steps of an implicit method leave dL/dθ off, with nothing to control it."""
    spec = adjoint.settings.norm.spec
    remedy = "adjoint='quadrature'"
    if adjoint.name == "gauss":
        what = "adjoint='gauss'"
    elif adjoint.name in ("backsolve", "interpolating") and (
        spec == "seminorm" or isinstance(spec, StateNorm)
    ):
        what = "a norm that leaves the parameters out"
    elif adjoint.name == "quadrature" and not algorithm.startswith(STIFF_INTERPOLANTS):
        # KenCarp4's were off by a factor of 2,000 on a van der Pol network (docs/choosing.md).
        what, remedy = "a backward solve read between its steps", "adjoint_method='Rodas5P'"
    else:
        return
    warn_caller(
        f"{what} with {algorithm}, an implicit method: nothing controls the error of the "
        f"parameters' gradients, which can be far off on a stiff problem; use {remedy}"
    )


def _rows(x: Tensor) -> NDArray[np.int64]:
    """Addresses of the entries along the first dimension of a contiguous tensor."""
    return x.data_ptr() + np.arange(len(x)) * (x.numel() // len(x) * x.itemsize)


def _first_non_finite(problem: Problem, x: Tensor) -> int:
    """Of the trajectories along the first dimension of ``x``; 0 where it tells nothing."""
    if problem.trajectories is None:
        return 0
    wrong = ~torch.isfinite(x).reshape(problem.trajectories, -1).all(dim=1)
    return int(wrong.to(torch.int8).argmax())
