"""The story of a solve in Julia."""

from __future__ import annotations

import ctypes
import time
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.backends.base import Backend, Gradients, Solution
from pysemi.backends.julia.acceptance import check_adjoint, check_problem
from pysemi.backends.julia.bridge import by_bridge
from pysemi.backends.julia.discrete import checkpoints, discrete_adjoint
from pysemi.backends.julia.events import JuliaEvent, prepare_event
from pysemi.backends.julia.fields import Binding, CallbackField
from pysemi.backends.julia.settings import (
    JuliaSettings,
    adjoint_settings,
    forward_settings,
)
from pysemi.backends.julia.verification import bind_verified, disagreement
from pysemi.captured import uncovered_leaves
from pysemi.compiler.compiled import compile_field
from pysemi.compiler.inventory import describe_callable
from pysemi.compiler.trace import warm_up
from pysemi.errors import (
    ArgumentError,
    NonFiniteStateError,
    SolveError,
    StepBudgetError,
    StepSizeUnderflowError,
)
from pysemi.methods import EXPLICIT_ALGORITHMS, julia_algorithm
from pysemi.norms import StateNorm
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.border import Border, CBackward, CForward, CReport, Status
from pysemi.runtime.home import StopFlag
from pysemi.runtime.session import Session, session
from pysemi.stats import Recording, SolveStats, publish

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

    def __init__(self, bridge: str = "auto") -> None:
        self._bridge = bridge

    def start(self) -> None:
        """Start Julia, if it does not run yet."""
        session(meanwhile=warm_up)

    def accept(self, problem: Problem, adjoint: Adjoint | None, bridge: str) -> Adjoint | None:
        """Refuse what this backend does not have; the discrete gradient has an adjoint here."""
        check_problem(problem, bridge)
        if adjoint is None:
            return discrete_adjoint(problem)
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

    def solve_backward(
        self, solution: Solution, cotangents: Sequence[Tensor], recordings: Sequence[Recording]
    ) -> Gradients:
        """Solve the adjoint of the forward solve that ``solution`` came from."""
        memory: _Memory = solution.memory
        problem, adjoint = memory.problem, memory.adjoint
        # An event's time has its gradient from pysemi.odeint_event, as in torchdiffeq.
        cotangent = cotangents[-1]
        dense = cotangent.detach().to(problem.y0.dtype).contiguous()
        y_bar = torch.empty_like(problem.y0, memory_format=torch.contiguous_format)
        packed = memory.binding.field.packed
        params_bar = torch.empty(packed, dtype=problem.y0.dtype)
        if not torch.isfinite(dense).all():
            # As a gradient scaler may send, to see it come through; no step could be taken.
            return _gradients(
                memory, solution, dense, y_bar.fill_(torch.nan), params_bar.fill_(torch.nan)
            )
        settings = adjoint_settings(problem, adjoint, packed)
        stop = StopFlag()
        request = CBackward(
            field=memory.binding.field.number,
            solution=memory.number,
            settings=settings.c,
            adjoint=ADJOINTS[adjoint.name],
            cotangents=dense.data_ptr(),
            y_bar=y_bar.data_ptr(),
            params_bar=params_bar.data_ptr(),
            recording=int(bool(recordings)),
            stop=stop.address,
        )
        outcome = _run(memory.session, "backward", request, (memory.binding,), stop)
        _raise_failure(outcome, "backward", settings, memory.binding)
        if not (bool(torch.isfinite(y_bar).all()) and bool(torch.isfinite(params_bar).all())):
            raise _failure(NonFiniteStateError, outcome, "backward", _NON_FINITE)
        if outcome.report.implicit and adjoint.params:
            _warn_of_uncontrolled(adjoint, settings.algorithm)
        publish(
            outcome.stats(
                "backward",
                memory.binding.field.bridge,
                settings,
                adjoint.settings.norm.name,
                adjoint.name,
            ),
            recordings,
        )
        return _gradients(memory, solution, dense, y_bar, params_bar)

    def _forward(
        self,
        problem: Problem,
        adjoint: Adjoint | None,
        recordings: Sequence[Recording],
    ) -> Solution:
        running = session(meanwhile=warm_up)
        prepared = _prepare(running, problem, adjoint, self._bridge)
        y0 = problem.y0.detach().contiguous()
        times = problem.t.detach().to(device="cpu", dtype=torch.float64).contiguous()
        y = torch.empty((len(times), *y0.shape), dtype=y0.dtype)
        settings = forward_settings(problem)
        keep = 0 if adjoint is None else KEPT[adjoint.name]
        event, compile_seconds = None, prepared.compile_seconds
        if problem.event_fn is not None:
            event, seconds = prepare_event(running, problem, problem.event_fn, self._bridge)
            compile_seconds += seconds
        stop = StopFlag()
        binding = prepared.binding
        request = CForward(
            field=binding.field.number,
            settings=settings.c,
            times=times.data_ptr(),
            ntimes=len(times),
            y0=y0.data_ptr(),
            y=y.data_ptr(),
            keep=keep,
            checkpoints=checkpoints(problem),
            recording=int(bool(recordings)),
            stop=stop.address,
            event=None if event is None else event.address,
            event_field=0 if event is None else event.number,
        )
        bound = (binding,) if event is None else (binding, event)
        outcome = _run(running, "forward", request, bound, stop)
        if event is not None and event.error is not None:
            raise event.error
        memory = None
        if adjoint is not None and outcome.report.solution:
            memory = _Memory(running, problem, adjoint, binding, outcome.report.solution)
        _raise_failure(outcome, "forward", settings, binding)
        if not bool(torch.isfinite(y).all()):
            raise _failure(NonFiniteStateError, outcome, "forward", _NON_FINITE)
        publish(
            outcome.stats(
                "forward",
                binding.field.bridge,
                settings,
                problem.settings.norm.name,
                None,
                compile_seconds,
            ),
            recordings,
        )
        event_t = None
        if event is not None:
            event_t = torch.tensor(outcome.report.event_time, dtype=problem.t.dtype)
        return Solution(y, event_t, memory=memory)


class _Memory:
    """A forward solve that Julia keeps; let go of with this object."""

    def __init__(
        self, running: Session, problem: Problem, adjoint: Adjoint, binding: Binding, number: int
    ) -> None:
        self.session = running
        self.problem = problem
        self.adjoint = adjoint
        self.binding = binding
        self.number = number
        weakref.finalize(self, running.release, number)


@dataclass
class _Prepared:
    binding: Binding
    compile_seconds: float


@dataclass
class _Outcome:
    """What a call across the border left behind."""

    status: Status
    message: str
    report: CReport
    seconds: float
    times: tuple[NDArray[np.float64], ...]

    def stats(
        self,
        direction: Any,
        bridge: str,
        settings: JuliaSettings,
        norm: str,
        adjoint: str | None,
        compile_seconds: float = 0.0,
    ) -> SolveStats:
        evaluations, steps, sizes, rejections = self.times
        return SolveStats(
            direction=direction,
            backend="julia",
            bridge=bridge,
            method=settings.algorithm,
            norm=norm,
            adjoint=adjoint,
            nfe=self.report.nf,
            nvjp=self.report.nvjp,
            accepted=self.report.accepted,
            rejected=self.report.rejected,
            step_times=steps,
            step_sizes=sizes,
            rejected_times=rejections,
            evaluation_times=evaluations,
            seconds=self.seconds + compile_seconds,
            compile_seconds=compile_seconds,
        )


_NON_FINITE = "the state became NaN or infinite; take smaller steps, or look for overflow in func"


def _prepare(running: Session, problem: Problem, adjoint: Adjoint | None, bridge: str) -> _Prepared:
    """Compile the vector field, or arrange for calls back into Python."""
    params = () if adjoint is None else adjoint.params

    def callback() -> _Prepared:
        field = running.run(
            lambda border: CallbackField(
                running, border, problem.func, problem.layout, problem.y0, params
            )
        )
        return _Prepared(Binding(field, (), ()), 0.0)

    return by_bridge(
        bridge,
        describe_callable(problem.func),
        "It runs by callback, which takes about as long as torchdiffeq",
        lambda: _prepare_compiled(running, problem, adjoint),
        callback,
    )


def _prepare_compiled(running: Session, problem: Problem, adjoint: Adjoint | None) -> _Prepared:
    params: Sequence[Tensor] | None = None if adjoint is None else adjoint.params
    if params is None and julia_algorithm(problem.settings.method) not in EXPLICIT_ALGORITHMS:
        params = ()  # an implicit method makes the Jacobian of products
    compilation, inventory = compile_field(
        problem.func, problem.layout, problem.t[0].detach(), problem.y0.detach(), params
    )
    binding, seconds = bind_verified(
        running,
        compilation,
        inventory,
        lambda border, binding: disagreement(border, binding, problem, params),
    )
    if seconds is None:
        return _Prepared(binding, 0.0)
    if adjoint is not None:
        _warn_of_uncovered(problem, adjoint)
    return _Prepared(binding, seconds)


def _warn_of_uncovered(problem: Problem, adjoint: Adjoint) -> None:
    """As the torch backend does: a tensor that will silently get no gradient."""
    y = problem.y0.detach().requires_grad_()
    with torch.enable_grad():
        dy = problem.layout.flatten(
            problem.func(problem.t[0].detach().to(y.dtype), problem.layout.unflatten(y))
        )
    if not dy.requires_grad:
        return
    missed = uncovered_leaves(dy, (y, *adjoint.params))
    if missed:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in missed[:3])
        where, what_to_do = (
            ("found by looking through it", "use odeint_adjoint and name them in adjoint_params")
            if adjoint.name == "discrete"
            else ("among the adjoint parameters", "add them to adjoint_params")
        )
        warnings.warn(
            f"func uses {len(missed)} tensor(s) that require a gradient and are not {where} "
            f"(shapes {shapes}): they get none from this solve; {what_to_do}",
            stacklevel=8,
        )


def _warn_of_uncontrolled(adjoint: Adjoint, algorithm: str) -> None:
    """Long steps of a stiff solver leave an integral that decides none of them far off."""
    spec = adjoint.settings.norm.spec
    if adjoint.name == "gauss":
        what = "adjoint='gauss'"
    elif adjoint.name in ("backsolve", "interpolating") and (
        spec == "seminorm" or isinstance(spec, StateNorm)
    ):
        what = "a norm that leaves the parameters out"
    else:
        return
    warnings.warn(
        f"{what} with {algorithm}, an implicit method: nothing controls the error of the "
        "parameters' gradients, which can be a few percent off on a stiff problem; use "
        "adjoint='quadrature'",
        stacklevel=2,
    )


def _run(
    running: Session,
    name: str,
    request: CForward | CBackward,
    bound: Sequence[Binding | JuliaEvent],
    stop: StopFlag,
) -> _Outcome:
    report = CReport()

    def job(border: Border) -> _Outcome:
        for part in bound:
            part.bind()
        began = time.perf_counter()
        status = border.call(name, ctypes.addressof(request), ctypes.addressof(report))
        seconds = time.perf_counter() - began
        if status is Status.SUCCESS:
            status = Status(report.status)
        message = border.message() if status is Status.FAILED else ""
        lengths = (report.evaluations, report.steps, report.steps, report.rejections)
        times = tuple(np.empty(length, dtype=np.float64) for length in lengths)
        if any(lengths):
            border.call("times", request.field, *(x.ctypes.data for x in times))
        return _Outcome(status, message, report, seconds, times)

    return running.run(job, stop)


def _raise_failure(
    outcome: _Outcome, direction: str, settings: JuliaSettings, binding: Binding
) -> None:
    status = outcome.status
    if status is Status.SUCCESS:
        return
    if status is Status.FOREIGN:
        error = settings.error or binding.field.error
        assert error is not None
        raise error
    if status is Status.STOPPED:
        raise KeyboardInterrupt
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
        raise ArgumentError("event_fn", f"is NaN at t = {outcome.report.event_time:.6g}")
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
    raise _failure(kind, outcome, direction, text)


def _failure(kind: type[SolveError], outcome: _Outcome, direction: str, text: str) -> SolveError:
    report = outcome.report
    known = {
        "t": report.t,
        "dt": report.dt,
        "error_norm": report.error_norm,
    }
    # NaN stands for a solve that made no step, but is an error norm's honest value.
    given = {name: value for name, value in known.items() if value == value or name == "error_norm"}
    return kind(text, direction=direction, **given)


def _gradients(
    memory: _Memory, solution: Solution, cotangent: Tensor, y_bar: Tensor, params_bar: Tensor
) -> Gradients:
    problem, adjoint = memory.problem, memory.adjoint
    grads: list[Tensor | None] = []
    offset = 0
    for param in adjoint.params:
        piece = params_bar[offset : offset + param.numel()].view(param.shape)
        # Each its own storage: p.grad may be changed in place, and outlive the others.
        grads.append(piece.clone())
        offset += param.numel()
    t_bar = None
    if problem.t.requires_grad:
        times = problem.t.detach()
        if solution.event_t is not None:
            times = torch.stack([times[0], solution.event_t])
        t_bar = _time_gradient(problem, times, solution.y, cotangent, y_bar)
    return Gradients(y_bar if problem.y0.requires_grad else None, t_bar, tuple(grads))


def _time_gradient(
    problem: Problem, times: Tensor, y: Tensor, cotangent: Tensor, y_bar: Tensor
) -> Tensor:
    r"""Each :math:`dL/dt_i = \lambda_i^T f(t_i, y_i)`; at :math:`t_0`, less all that follows."""
    slopes = [
        problem.layout.flatten(
            problem.func(time.to(y.dtype), problem.layout.unflatten(state))
        ).detach()
        for time, state in zip(times, y, strict=True)
    ]
    t_bar = torch.stack([(c * f).sum() for c, f in zip(cotangent, slopes, strict=True)])
    t_bar[0] = -((y_bar - cotangent[0]) * slopes[0]).sum()
    if problem.event_fn is not None:
        t_bar[1] = 0  # the second entry of t takes no part in such a solve
    return t_bar.to(problem.t)
