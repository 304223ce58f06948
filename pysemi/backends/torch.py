"""The reference backend: torchdiffeq, watched.

torchdiffeq does all the numerics. This module gives it the vector field and the
norms, listens to its callbacks, and keeps forward and backward solves apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, cast
from weakref import WeakSet

import torch
from torch import Tensor

from pysemi.backends.base import Backend, Gradients, Solution
from pysemi.backends.landing import LandingGuard
from pysemi.backends.monitor import SolveMonitor
from pysemi.captured import uncovered_leaves
from pysemi.errors import ArgumentError, SolveError, describe
from pysemi.methods import MethodKind, torchdiffeq_kind, torchdiffeq_methods
from pysemi.problem import Adjoint, Problem, SolverSettings
from pysemi.state import check_derivative
from pysemi.stats import Recording, publish
from pysemi.warn import warn_caller

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """Solves by torchdiffeq: every method it has, and the "backsolve" adjoint."""

    name: ClassVar[str] = "torch"

    def accept(self, problem: Problem, adjoint: Adjoint | None, bridge: str) -> Adjoint | None:
        """Refuse what only the Julia backend has; autograd goes through the solver's steps."""
        if bridge != "auto":
            raise ArgumentError(
                "bridge", f"{describe(bridge)} is for backend='julia'; torch needs no bridge"
            )
        _check_method("method", problem.settings)
        if adjoint is None:
            return None
        _check_method("adjoint_method", adjoint.settings)
        if adjoint.name != "backsolve":
            raise ArgumentError(
                "adjoint",
                f"{describe(adjoint.name)} needs backend='julia'; torch has 'backsolve', and "
                "pysemi.odeint for the gradient of the discrete solution",
            )
        return adjoint

    def solve(self, problem: Problem, recordings: Sequence[Recording]) -> Solution:
        """Solve by ``torchdiffeq.odeint``; autograd goes through the solver's steps."""
        import torchdiffeq  # imports scipy, which takes longer than pysemi itself

        watched = _WatchedField(problem, None, recordings)
        with watched.monitor.watching():
            result = torchdiffeq.odeint(
                watched, problem.y0, problem.t, **_forward_arguments(problem, watched)
            )
        return _finish_forward(problem, watched, result, recordings)

    def solve_forward(
        self, problem: Problem, adjoint: Adjoint, recordings: Sequence[Recording]
    ) -> Solution:
        """Solve by ``torchdiffeq.odeint_adjoint``, and keep the graph it makes.

        The graph hangs on detached copies of y0 and t, so that
        :meth:`solve_backward` can run it by itself, watch it, and answer for its
        failures.
        """
        import torchdiffeq

        y0 = problem.y0.detach().requires_grad_(problem.y0.requires_grad)
        t = problem.t.detach().requires_grad_(problem.t.requires_grad)
        watched = _WatchedField(problem, adjoint, recordings)
        with torch.enable_grad(), watched.monitor.watching():
            result = torchdiffeq.odeint_adjoint(
                watched,
                y0,
                t,
                adjoint_rtol=adjoint.settings.rtol,
                adjoint_atol=adjoint.settings.atol,
                adjoint_method=adjoint.settings.method,
                adjoint_options={
                    **_own_options(adjoint.settings),
                    "norm": partial(watched.norm, adjoint.settings.norm.function),
                },
                adjoint_params=adjoint.params,
                **_forward_arguments(problem, watched),
            )
        solution = _finish_forward(problem, watched, result, recordings)
        graph = _Graph(adjoint, watched, y0, t, solution.outputs)
        event_t = None if solution.event_t is None else solution.event_t.detach()
        return Solution(solution.y.detach(), event_t, memory=graph)

    def solve_dense(
        self, problem: Problem, adjoint: Adjoint | None, recordings: Sequence[Recording]
    ) -> Solution:
        """Solve by ``torchdiffeq.odeint_dense``, for "dopri5" and increasing time."""
        assert adjoint is None  # autograd goes through the interpolant
        import torchdiffeq

        if problem.settings.method != "dopri5":
            raise ArgumentError(
                "method",
                f"{describe(problem.settings.method)}: torchdiffeq's dense solution is of "
                "'dopri5'; other methods need backend='julia'",
            )
        if _decreases(problem.t):
            raise ArgumentError(
                "t1",
                "is before t0, which torchdiffeq's dense solution does not do; use backend='julia'",
            )
        watched = _WatchedField(problem, None, recordings)
        given = _forward_arguments(problem, watched)
        del given["event_fn"]
        with watched.monitor.watching():
            function = torchdiffeq.odeint_dense(
                watched, problem.y0, problem.t[0], problem.t[1], **given
            )
        publish(watched.monitor.stats(), recordings)
        return Solution(problem.y0, memory=function)

    def interpolate(self, solution: Solution, t: Tensor) -> Solution:
        """Evaluate torchdiffeq's function at each time; autograd goes through it."""

        def at(time: Tensor) -> Tensor:
            try:
                return cast("Tensor", solution.memory(time))
            except IndexError:  # a step ended there, and the function looks for the next
                return cast("Tensor", solution.memory(torch.nextafter(time, t[0].detach())))

        return Solution(torch.stack([solution.y, *map(at, t[1:])]))

    def solve_backward(
        self, solution: Solution, cotangents: Sequence[Tensor], recordings: Sequence[Recording]
    ) -> Gradients:
        """Run the kept graph backward; retained, since the caller decides its lifetime."""
        graph: _Graph = solution.memory
        monitor = graph.backward_monitor(keep_times=bool(recordings))
        wanted = [x for x in (graph.y0, graph.t, *graph.adjoint.params) if x.requires_grad]
        # One backward solve at a time per graph: its vector field has one monitor.
        with graph.lock, graph.watched.reporting_to(monitor), monitor.watching():
            found = torch.autograd.grad(
                graph.outputs, wanted, list(cotangents), retain_graph=True, allow_unused=True
            )
        _check_gradients(found, cotangents, monitor)
        publish(monitor.stats(), recordings)
        gradients = iter(found)
        y0, t, *params = (
            next(gradients) if x.requires_grad else None
            for x in (graph.y0, graph.t, *graph.adjoint.params)
        )
        return Gradients(y0, t, tuple(params))


@dataclass
class _Graph:
    """A forward solve that can be run backward."""

    adjoint: Adjoint
    watched: _WatchedField
    y0: Tensor
    t: Tensor
    outputs: tuple[Tensor, ...]
    # Reentrant: while autograd waits inside one backward solve, its device thread
    # may take up another of the same graph.
    lock: threading.RLock = field(default_factory=threading.RLock)

    def backward_monitor(self, *, keep_times: bool) -> SolveMonitor:
        # torchdiffeq turns decreasing times around before it solves forward, and
        # leaves the backward solve in its own, increasing time.
        return SolveMonitor(
            "backward",
            torchdiffeq_kind(self.adjoint.settings.method),
            self.adjoint.settings,
            keep_times=keep_times,
            time_sign=-1 if _decreases(self.t) else 1,
            adjoint=self.adjoint.name,
            state_size=self.y0.numel(),
            parameter_size=sum(param.numel() for param in self.adjoint.params),
            trajectory=self.watched.trajectory,
        )


class _WatchedField:
    """The vector field as torchdiffeq calls it, with torchdiffeq's callbacks.

    Callbacks of the user's module are called too, with the state as the user
    has it. ``monitor`` is the solve that is running now.
    """

    def __init__(
        self, problem: Problem, adjoint: Adjoint | None, recordings: Sequence[Recording]
    ) -> None:
        self.monitor = SolveMonitor(
            "forward",
            _reporting_kind(problem),
            problem.settings,
            keep_times=bool(recordings),
            state_size=problem.y0.numel(),
            trajectory=problem.number,
        )
        self.trajectory = problem.number
        self._func = problem.func
        self._layout = problem.layout
        self._params = () if adjoint is None else adjoint.params
        self._shape_is_checked = False
        forward_guard = LandingGuard(problem.settings.options, -1 if _decreases(problem.t) else 1)
        self._offer_callbacks("", problem.settings, forward_guard, problem.layout.unflatten)
        if adjoint is not None:
            # torchdiffeq hands these the augmented state; it is passed on as it comes.
            self._offer_callbacks(
                "_adjoint",
                adjoint.settings,
                LandingGuard(adjoint.settings.options, -1),
                lambda augmented: augmented,
            )

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.monitor.evaluated(t)
        dy = self._func(t, self._layout.unflatten(y))
        if not self._shape_is_checked:
            check_derivative(dy, self._layout)
            self._shape_is_checked = True
        flat = self._layout.flatten(dy)
        if self.monitor.nvjp == 1:
            _warn_of_uncovered(self._func, flat, (t, y, *self._params))
        return flat

    def norm(self, function: Callable[[Any], Tensor], x: Any) -> Tensor:
        """Evaluate a norm, letting the monitor see the value."""
        value = function(x)
        self.monitor.error_norm = value.detach()
        return value

    @contextmanager
    def reporting_to(self, monitor: SolveMonitor) -> Iterator[None]:
        """Let ``monitor`` watch while the block runs."""
        before, self.monitor = self.monitor, monitor
        try:
            yield
        finally:
            self.monitor = before

    def _offer_callbacks(
        self,
        suffix: str,
        settings: SolverSettings,
        guard: LandingGuard,
        as_user_sees: Callable[[Any], Any],
    ) -> None:
        for event in ("step", "accept_step", "reject_step"):
            name = f"callback_{event}{suffix}"
            theirs = getattr(self._func, name, None)
            ours = event in _REPORTED[torchdiffeq_kind(settings.method)]
            # A callback the method never calls is offered only if the user has
            # one, so that torchdiffeq warns of exactly those.
            if ours or theirs is not None:
                setattr(self, name, partial(self._callback, event, theirs, guard, as_user_sees))

    def _callback(
        self,
        event: str,
        theirs: Callable[[Tensor, Any, Tensor], Any] | None,
        guard: LandingGuard,
        as_user_sees: Callable[[Any], Any],
        t: Tensor,
        y: Any,
        dt: Tensor,
    ) -> None:
        if event == "step":
            guard(t, dt)
            self.monitor.attempted(t, dt)
        elif event == "accept_step":
            self.monitor.accepted(t, dt)
        else:
            self.monitor.rejected(t)
        if theirs is not None:
            theirs(t, as_user_sees(y), dt)


def _decreases(t: Tensor) -> bool:
    return len(t) > 1 and bool(t[0] > t[1])


_REPORTED: dict[MethodKind, tuple[str, ...]] = {
    MethodKind.ADAPTIVE: ("step", "accept_step", "reject_step"),
    MethodKind.FIXED: ("step",),
    MethodKind.OPAQUE: (),
}
"""The callbacks that torchdiffeq's solvers of each kind call (their ``valid_callbacks``)."""

_CHECKED_FOR_CAPTURES: WeakSet[Any] = WeakSet()


def _reporting_kind(problem: Problem) -> MethodKind:
    kind = torchdiffeq_kind(problem.settings.method)
    if kind is MethodKind.FIXED and problem.event_fn is not None:
        # integrate_until_event on a fixed grid calls no callbacks.
        return MethodKind.OPAQUE
    return kind


def _check_method(argument: str, settings: SolverSettings) -> None:
    known = torchdiffeq_methods()
    if not isinstance(settings.method, str) or settings.method not in known:
        raise ArgumentError(
            argument,
            f"{describe(settings.method)} is not one of torchdiffeq's "
            f"{', '.join(known)}; OrdinaryDiffEq's methods need backend='julia'",
        )
    controller = settings.options.get("controller", "torchdiffeq")
    if controller != "torchdiffeq":
        raise ArgumentError(
            "options['controller']",
            f"{describe(controller)} needs backend='julia'; torch has torchdiffeq's own",
        )


def _own_options(settings: SolverSettings) -> dict[str, Any]:
    return {key: value for key, value in settings.options.items() if key != "controller"}


def _forward_arguments(problem: Problem, watched: _WatchedField) -> dict[str, Any]:
    settings = problem.settings
    event_fn = problem.event_fn
    return {
        "rtol": settings.rtol,
        "atol": settings.atol,
        "method": settings.method,
        "options": {
            **_own_options(settings),
            "norm": partial(watched.norm, settings.norm.function),
        },
        "event_fn": None
        if event_fn is None
        else lambda t, y: event_fn(t, problem.layout.unflatten(y)),
    }


def _finish_forward(
    problem: Problem, watched: _WatchedField, result: Any, recordings: Sequence[Recording]
) -> Solution:
    solution = Solution(result) if problem.event_fn is None else Solution(result[1], result[0])
    monitor = watched.monitor
    if problem.event_fn is None and len(solution.y) != len(problem.t):
        # scipy's solve_ivp returns the part it could do, and torchdiffeq passes that on.
        raise SolveError(
            f"{problem.settings.method} gave up after {len(solution.y)} of {len(problem.t)} "
            "observation times; loosen rtol and atol or choose another method",
            direction="forward",
            t=float(problem.t[len(solution.y) - 1]),
            trajectory=problem.number,
        )
    finite = torch.isfinite(solution.y.detach())
    if not finite.all():
        times = problem.t if solution.event_t is None else [problem.t[0], solution.event_t]
        index = next(i for i, row in enumerate(finite) if not row.all())
        raise monitor.non_finite(
            "the state became NaN or infinite by this observation time; take smaller steps, or "
            "look for overflow in func",
            t=float(times[index]),
        )
    publish(monitor.stats(), recordings)
    return solution


def _check_gradients(
    found: Sequence[Tensor | None], cotangents: Sequence[Tensor], monitor: SolveMonitor
) -> None:
    if all(gradient is None or torch.isfinite(gradient).all() for gradient in found):
        return
    if all(torch.isfinite(cotangent).all() for cotangent in cotangents):
        # (With an infinite cotangent, as a gradient scaler may send, it is no failure.)
        raise monitor.non_finite(
            "the gradient became NaN or infinite; look for a point where func is finite but not "
            "differentiable, such as sqrt at 0"
        )


def _warn_of_uncovered(func: Any, dy: Tensor, known: Sequence[Tensor]) -> None:
    try:
        if func in _CHECKED_FOR_CAPTURES:
            return
        _CHECKED_FOR_CAPTURES.add(func)
    except TypeError:
        pass  # not hashable or not weakly referable: look every time
    shapes = [tuple(leaf.shape) for leaf in uncovered_leaves(dy, known)]
    if shapes:
        warn_caller(
            f"func depends on {len(shapes)} tensor(s) that require a gradient and get none, of "
            f"shape {', '.join(map(str, shapes[:5]))}: they are not among adjoint_params. Make "
            "them parameters of func, or pass adjoint_params=(*func.parameters(), ...)"
        )
