"""The story of a solve in Julia."""

from __future__ import annotations

import ctypes
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from pysemi.backends.julia.fields import Binding, CallbackField, compiled_field
from pysemi.backends.julia.settings import (
    JuliaSettings,
    adjoint_settings,
    forward_settings,
)
from pysemi.backends.julia.verification import ByIdentity, bind_verified, disagreement
from pysemi.captured import uncovered_leaves
from pysemi.compiler.compiled import compile_field
from pysemi.compiler.inventory import describe_callable
from pysemi.compiler.trace import warm_up
from pysemi.compiler.untranslatable import Untranslatable
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
from pysemi.runtime.border import Border, CBackward, CForward, CReport, Status, repeated
from pysemi.runtime.home import StopFlag
from pysemi.runtime.session import Session, session
from pysemi.stats import Recording, SolveStats, publish
from pysemi.trajectories import check_independent

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
        session(meanwhile=warm_up)

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
        stop = StopFlag()
        binding = memory.bindings[0]

        def job(border: Border) -> tuple[Status, str]:
            binding.bind()
            status = border.call(
                "interpolate",
                binding.field.number,
                memory.numbers[0],
                times.data_ptr(),
                len(times),
                y.data_ptr(),
                stop.address,
            )
            return status, border.message() if status is Status.FAILED else ""

        status, message = memory.session.run(job, stop)
        outcome = _Outcome(status, message, [CReport()], [])
        settings = forward_settings(memory.problem)
        _raise_failure(outcome, "forward", settings, memory.problem, (binding,))
        return Solution(y, memory=memory.at(replace(memory.problem, t=t)))

    def solve_backward(
        self, solution: Solution, cotangents: Sequence[Tensor], recordings: Sequence[Recording]
    ) -> Gradients:
        """Solve the adjoint of the forward solve that ``solution`` came from."""
        memory: _Memory = solution.memory
        problem, adjoint = memory.problem, memory.adjoint
        # An event's time has its gradient from pysemi.odeint_event, as in torchdiffeq.
        dense = _by_trajectory(problem, cotangents[-1].detach()).to(problem.y0.dtype).contiguous()
        y_bar = torch.empty_like(problem.y0, memory_format=torch.contiguous_format)
        packed = memory.bindings[0].field.packed
        params_bar = torch.empty(packed, dtype=problem.y0.dtype)
        if not torch.isfinite(dense).all():
            # As a gradient scaler may send, to see it come through; no step could be taken.
            return _gradients(
                memory, solution, dense, y_bar.fill_(torch.nan), params_bar.fill_(torch.nan)
            )
        settings = adjoint_settings(problem.one, adjoint, packed)
        times, observed = None, dense
        if memory.is_interpolated:
            times = problem.t.detach().to(device="cpu", dtype=torch.float64).contiguous()
            observed = _start_in_one(times, dense)
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
        bindings = memory.bindings if settings.may_be_shared_out else memory.bindings[:1]
        outcome = _run(memory.session, "backward", requests, bindings, (), stop)
        _raise_failure(outcome, "backward", settings, problem, bindings)
        if not (bool(torch.isfinite(y_bar).all()) and bool(torch.isfinite(params_bar).all())):
            raise _failure(
                NonFiniteStateError, outcome, _first_non_finite(problem, y_bar), "backward", problem
            )
        if outcome.reports[0].implicit and adjoint.params:
            _warn_of_uncontrolled(adjoint, settings.algorithm)
        for stats in outcome.stats(
            "backward", bindings[0], settings, adjoint.settings.norm.name, adjoint.name, problem
        ):
            publish(stats, recordings)
        return _gradients(memory, solution, dense, y_bar, params_bar)

    def _forward(
        self,
        problem: Problem,
        adjoint: Adjoint | None,
        recordings: Sequence[Recording],
    ) -> Solution:
        running = session(meanwhile=warm_up)
        bindings, compile_seconds = self._prepare(running, problem, adjoint)
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
        if not settings.may_be_shared_out:
            bindings = bindings[:1]
        outcome = _run(
            running, "forward", requests, bindings, () if event is None else (event,), stop
        )
        memory = None
        if adjoint is not None:
            kept = _Kept(running, outcome.solutions, bindings[0])
            memory = _Memory(running, problem, adjoint, bindings, kept)
        if event is not None and event.error is not None:
            raise event.error
        _raise_failure(outcome, "forward", settings, problem, bindings)
        if not bool(torch.isfinite(y).all()):
            raise _failure(
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
        return Solution(_by_time(problem, y), event_t, memory=memory)

    def _prepare(
        self, running: Session, problem: Problem, adjoint: Adjoint | None
    ) -> tuple[tuple[Binding, ...], float]:
        """Compile the vector field, or arrange for calls back into Python.

        Returns
        -------
        tuple of Binding
            As many as there are threads to solve on.
        float
            Seconds spent on what was not known before.
        """

        def callback() -> tuple[tuple[Binding, ...], float]:
            if problem.trajectories is not None and self._verify != "never":
                check_independent(problem)
            one, params = problem.one, () if adjoint is None else adjoint.params
            field = running.run(
                lambda border: CallbackField(running, border, one.func, one.layout, one.y0, params)
            )
            return (Binding(field, (), ()),), 0.0

        return by_bridge(
            self._bridge,
            describe_callable(problem.func),
            "It runs by callback, which takes about as long as torchdiffeq",
            lambda: _prepare_compiled(running, problem, adjoint, self._verify),
            callback,
        )


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


@dataclass
class _Outcome:
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
    """

    status: Status
    message: str
    reports: Sequence[CReport]
    times: list[tuple[NDArray[np.float64], ...]]

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


_NON_FINITE = "the state became NaN or infinite; take smaller steps, or look for overflow in func"


def _prepare_compiled(
    running: Session, problem: Problem, adjoint: Adjoint | None, verify: str
) -> tuple[tuple[Binding, ...], float]:
    params: Sequence[Tensor] | None = None if adjoint is None else adjoint.params
    if params is None and julia_algorithm(problem.settings.method) not in EXPLICIT_ALGORITHMS:
        params = ()  # an implicit method makes the Jacobian of products
    one = problem.one
    try:
        compilation, inventory = compile_field(
            one.func, one.layout, one.t[0].detach(), one.y0.detach(), params
        )
    except (Untranslatable, ArgumentError):
        if problem.trajectories is not None:
            check_independent(problem)  # which may know the reason
        raise
    binding, seconds = bind_verified(
        running,
        compilation,
        inventory,
        lambda border, binding: disagreement(border, binding, one, params),
        verify,
    )
    if seconds is not None and adjoint is not None:
        _warn_of_uncovered(one, adjoint)
    if problem.trajectories is None:
        return (binding,), seconds or 0.0
    if verify == "always" or (verify == "first" and compilation not in _independent):
        check_independent(problem)
        _independent[compilation] = True
    workers = min(running.threads, torch.get_num_threads(), problem.trajectories)
    copies = running.run(
        lambda border: [
            compiled_field(running, border, compilation, copy)[0] for copy in range(1, workers)
        ]
    )
    return (binding, *map(binding.to, copies)), seconds or 0.0


_independent: ByIdentity[bool] = ByIdentity()
"""Compilations whose fields were seen not to mix trajectories."""


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
    requests: ctypes.Array[Any],
    bindings: Sequence[Binding],
    events: Sequence[JuliaEvent],
    stop: StopFlag,
) -> _Outcome:
    count = len(requests)
    reports = (CReport * count)()
    fields = (ctypes.c_int64 * len(bindings))(*(binding.field.number for binding in bindings))

    def job(border: Border) -> _Outcome:
        for binding in bindings:
            binding.bind()
        for event in events:
            event.bind()
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
        recorded = [report for report in reports if report.times]
        return _Outcome(status, message, list(reports), [_fetch_times(border, r) for r in recorded])

    return running.run(job, stop)


def _fetch_times(border: Border, report: CReport) -> tuple[NDArray[np.float64], ...]:
    lengths = (report.evaluations, report.steps, report.steps, report.rejections)
    times = tuple(np.empty(length, dtype=np.float64) for length in lengths)
    border.call("times", report.times, *(x.ctypes.data for x in times))
    return times


def _raise_failure(
    outcome: _Outcome,
    direction: str,
    settings: JuliaSettings,
    problem: Problem,
    bindings: Sequence[Binding],
) -> None:
    failure = outcome.failure
    if failure is None:
        return
    status, index = failure
    if status is Status.FOREIGN:
        error = settings.error or next(b.field.error for b in bindings if b.field.error)
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
    raise _failure(kind, outcome, index, direction, problem, text)


def _failure(
    kind: type[SolveError],
    outcome: _Outcome,
    index: int,
    direction: str,
    problem: Problem,
    text: str = _NON_FINITE,
) -> SolveError:
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


def _start_in_one(times: Tensor, cotangents: Tensor) -> Tensor:
    """Cotangents ``(1, T, *flat)``; those of the first time, where it comes again, in one."""
    at_start = times == times[0]
    if int(at_start.sum()) == 1:
        return cotangents
    joined = cotangents.clone()
    joined[:, at_start] = 0
    joined[:, 0] = cotangents[:, at_start].sum(dim=1)
    return joined


def _rows(x: Tensor) -> NDArray[np.int64]:
    """Addresses of the entries along the first dimension of a contiguous tensor."""
    return x.data_ptr() + np.arange(len(x)) * (x.numel() // len(x) * x.itemsize)


def _first_non_finite(problem: Problem, x: Tensor) -> int:
    """Of the trajectories along the first dimension of ``x``; 0 where it tells nothing."""
    if problem.trajectories is None:
        return 0
    wrong = ~torch.isfinite(x).reshape(problem.trajectories, -1).all(dim=1)
    return int(wrong.to(torch.int8).argmax())


def _by_time(problem: Problem, y: Tensor) -> Tensor:
    """From ``(B, T, *flat)`` to ``(T, B, *flat)``, or ``(T, *flat)`` for one state."""
    return y[0] if problem.trajectories is None else y.transpose(0, 1)


def _by_trajectory(problem: Problem, y: Tensor) -> Tensor:
    """What :func:`_by_time` made, the other way round."""
    return y.unsqueeze(0) if problem.trajectories is None else y.transpose(0, 1)


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
        t_bar = _time_gradients(problem, solution, cotangent, y_bar)
    return Gradients(y_bar if problem.y0.requires_grad else None, t_bar, tuple(grads))


def _time_gradients(
    problem: Problem, solution: Solution, cotangent: Tensor, y_bar: Tensor
) -> Tensor:
    """dL/dt, added up over the trajectories that share their times."""
    if problem.trajectories is None:
        times = problem.t.detach()
        if solution.event_t is not None:
            times = torch.stack([times[0], solution.event_t])
        return _time_gradient(problem, times, solution.y, cotangent[0], y_bar)
    states = _by_trajectory(problem, solution.y)
    each = []
    for number in range(problem.trajectories):
        one = problem.trajectory(number)
        each.append(
            _time_gradient(one, one.t.detach(), states[number], cotangent[number], y_bar[number])
        )
    stacked = torch.stack(each)
    return stacked.sum(0) if problem.t.ndim == 1 else stacked


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
