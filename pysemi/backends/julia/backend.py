"""The story of a solve in Julia."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.backends.base import Backend, Gradients, Solution
from pysemi.backends.julia.acceptance import check_adjoint, check_problem
from pysemi.backends.julia.call import call_interpolation, raise_failure
from pysemi.backends.julia.discrete import discrete_adjoint
from pysemi.backends.julia.gradients import (
    by_time,
    by_trajectory,
    gradients,
    plain,
    start_in_one,
)
from pysemi.backends.julia.preparation import Prepared, prepare
from pysemi.errors import ArgumentError
from pysemi.kept import kept_compilations
from pysemi.norms import StateNorm
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.border import Status
from pysemi.runtime.home import StopFlag
from pysemi.runtime.session import Session, session
from pysemi.stats import Recording, publish
from pysemi.warn import warn_caller

__all__ = ["JuliaBackend"]


class JuliaBackend(Backend):
    """Solves by OrdinaryDiffEq, and the adjoints by SciMLSensitivity.

    The adjoint "discrete" is PySemi.jl's own.
    """

    name: ClassVar[str] = "julia"
    solves_batches: ClassVar[bool] = True
    prepares: ClassVar[bool] = True

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
            solution = self._forward(problem, kept, recordings)
        solution.memory.versions = solution.memory.prepared.versions
        return solution

    def interpolate(self, solution: Solution, t: Tensor) -> Solution:
        """The states at other times within a solve that keeps its steps."""
        memory: _Memory = solution.memory
        prepared = memory.prepared
        if memory.versions != prepared.versions:
            raise ArgumentError(
                "t",
                "a tensor that func reads was changed after the solve, whose steps would be others "
                "now; solve again",
            )
        times = t.detach().to(device="cpu", dtype=torch.float64).contiguous()
        y = torch.empty((len(times), *memory.problem.y0.shape), dtype=memory.problem.y0.dtype)
        outcome = call_interpolation(prepared.forward, memory.numbers[0], times, y, StopFlag())
        if outcome.failure is not None:
            raise_failure(outcome, "forward", prepared.forward, memory.problem)
        return Solution(y, memory=memory.at(replace(memory.problem, t=t)))

    def solve_backward(
        self, solution: Solution, cotangents: Sequence[Tensor], recordings: Sequence[Recording]
    ) -> Gradients:
        """Solve the adjoint of the forward solve that ``solution`` came from."""
        memory: _Memory = solution.memory
        problem, adjoint, prepared = memory.problem, memory.prepared.adjoint, memory.prepared
        assert adjoint is not None
        dtype = problem.y0.dtype
        # An event's time has its gradient from pysemi.odeint_event, as in torchdiffeq.
        dense = plain(by_trajectory(problem, cotangents[-1].detach()), dtype)
        # Each its own storage: p.grad may be changed in place, and outlive the others.
        y_bar, *params_bar = (
            torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
            for x in (problem.y0, *adjoint.params)
        )
        direction = prepared.backward()
        times, observed = None, dense
        if memory.is_interpolated:
            times = problem.t.detach().to(device="cpu", dtype=torch.float64).contiguous()
            observed = start_in_one(times, dense)
        stop = StopFlag()
        members = {
            "solution": memory.numbers[0],
            "times": None if times is None else times.data_ptr(),
            "ntimes": 0 if times is None else len(times),
            "cotangents": observed.data_ptr(),
            "y_bar": y_bar.data_ptr(),
            "recording": int(bool(recordings)),
            "stop": stop.address,
        }
        if problem.trajectories is None:
            outcome = direction.solve(members, stop, params_bar)
        else:
            each = {
                "solution": np.asarray(memory.numbers),
                "cotangents": _rows(observed),
                "y_bar": _rows(y_bar),
            }
            outcome = direction.solve(members, stop, params_bar, problem.trajectories, each)
        failure = outcome.failure
        if failure is not None:
            if failure[0] is not Status.COTANGENT_NOT_FINITE:
                raise_failure(outcome, "backward", direction, problem)
            # As a gradient scaler may send, to see it come through; no step could be taken.
            for bar in (y_bar, *params_bar):
                bar.fill_(torch.nan)
        elif outcome.reports[0].implicit and adjoint.params:
            _warn_of_inaccurate(adjoint, direction.settings.algorithm)
        if recordings and failure is None:
            for stats in outcome.stats(
                "backward", direction, adjoint.settings.norm.name, adjoint, problem
            ):
                publish(stats, recordings)
        return gradients(problem, solution, dense, y_bar, params_bar)

    def _forward(
        self,
        problem: Problem,
        adjoint: Adjoint | None,
        recordings: Sequence[Recording],
    ) -> Solution:
        prepared, compile_seconds = self._prepared(problem, adjoint)
        direction = prepared.forward
        y0 = plain(problem.y0, problem.y0.dtype)
        times = problem.t.detach().to(device="cpu", dtype=torch.float64).contiguous()
        y = torch.empty(prepared.shape_at(times), dtype=y0.dtype)
        stop = StopFlag()
        members = {
            "times": times.data_ptr(),
            "ntimes": times.shape[-1],
            "y0": y0.data_ptr(),
            "y": y.data_ptr(),
            "recording": int(bool(recordings)),
            "stop": stop.address,
        }
        if problem.trajectories is None:
            outcome = direction.solve(members, stop)
        else:
            each = {"y0": _rows(y0), "y": _rows(y)}
            if times.ndim == 2:
                each["times"] = _rows(times)
            outcome = direction.solve(members, stop, (), problem.trajectories, each)
        memory = None
        if adjoint is not None:
            memory = _Memory(problem, prepared, _Kept(prepared.session, outcome.solutions))
        event = prepared.event
        if event is not None and event.error is not None:
            raise event.error
        if outcome.failure is not None:
            raise_failure(outcome, "forward", direction, problem)
        if recordings:
            for stats in outcome.stats(
                "forward", direction, problem.settings.norm.name, None, problem, compile_seconds
            ):
                publish(stats, recordings)
        event_t = None
        if event is not None:
            event_t = torch.tensor(outcome.reports[0].event_time, dtype=problem.t.dtype)
        return Solution(by_time(problem, y), event_t, memory=memory)

    def _prepared(self, problem: Problem, adjoint: Adjoint | None) -> tuple[Prepared, float]:
        """What is ready for problems like this one, or is made ready now, in so many seconds."""
        recurring = problem.recurring
        if recurring is not None:
            known: Prepared | None = recurring.prepared
            if known is not None and known.serves(adjoint):
                return known, 0.0
        running = session(meanwhile=_warm_up)
        made, seconds = prepare(running, problem, adjoint, self._bridge, self._verify)
        if recurring is not None and self._verify != "always" and made.is_lasting:
            recurring.prepared = made
        return made, seconds


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

    def __init__(self, running: Session, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self._running = running

    def __del__(self) -> None:
        self._running.release(*self.numbers)


@dataclass
class _Memory:
    """What a backward solve starts from.

    Attributes
    ----------
    problem : Problem
        Its times are those that cotangents belong to.
    versions : sequence of (int or None)
        Of the tensors that the vector field reads, where the solution is asked for other times.
    is_interpolated : bool
        Whether the problem's times are others than the forward solve's.
    """

    problem: Problem
    prepared: Prepared
    kept: _Kept
    versions: Sequence[int | None] = ()
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
