"""What a solve is asked for, checked: torchdiffeq's arguments become a problem.

Everything a user can get wrong before a step is taken is refused here, once,
for every backend. Backends may rely on what these classes promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from numbers import Real
from operator import gt, lt
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from pysemi.errors import ArgumentError, describe
from pysemi.methods import DEFAULT_METHOD
from pysemi.norms import BoundNorm, bind_adjoint_norm, bind_state_norm
from pysemi.state import State, StateLayout, Tolerance
from pysemi.warn import warn_caller

__all__ = [
    "ADJOINTS",
    "BATCHES",
    "DEFAULT_MAX_NUM_STEPS",
    "Adjoint",
    "EventFunction",
    "Form",
    "Problem",
    "Recurring",
    "SolverSettings",
    "VectorField",
    "pose",
    "pose_adjoint",
]

VectorField: TypeAlias = Callable[[Tensor, Any], Any]
"""(t of shape (), y as the user has it) -> dy/dt, with the structure of y."""

EventFunction: TypeAlias = Callable[[Tensor, Any], Tensor]
"""(t of shape (), y as the user has it) -> a tensor whose sign change ends the solve."""

DEFAULT_MAX_NUM_STEPS = 100_000
"""Steps a whole adaptive solve may attempt (DifferentialEquations.jl's documented
``maxiters``); torchdiffeq's own default, 2^31 - 1 for each output interval, never ends."""

ADJOINTS = ("backsolve", "interpolating", "gauss", "quadrature", "discrete")
"""Ways to get the gradient; the torch backend has "backsolve", the paper's."""

BATCHES = ("joint", "independent")
"""What the state's first dimension means: a part of one state, or trajectories of their own."""


@dataclass(frozen=True)
class SolverSettings:
    """How one direction is to be solved.

    Attributes
    ----------
    rtol, atol : float, Tensor or tuple
        Forward: a number, or a tensor that broadcasts over the flat state.
        Backward: a number, or a tuple with one entry per part of the
        augmented state ``(a_t, y, a_y, *a_θ)``.
    method : str or object
        Name of a solver, or an algorithm object of the Julia backend.
    options : mapping
        The method's own options; ``norm`` and ``max_num_steps`` are taken out.
    norm : BoundNorm
    max_num_steps : int or None
        Steps the whole solve may attempt (evaluations, for a method that does not
        report its steps); None: :data:`DEFAULT_MAX_NUM_STEPS`, or no limit on a
        fixed grid.
    """

    rtol: Tolerance
    atol: Tolerance
    method: Any
    options: Mapping[str, Any]
    norm: BoundNorm
    max_num_steps: int | None


@dataclass
class Recurring:
    """What is worth keeping of a problem for those that differ in the values of tensors alone.

    Attributes
    ----------
    prepared : object
        Whatever the backend has made ready for them; None until it has.
    """

    prepared: Any = None


@dataclass(frozen=True)
class Problem:
    """An initial value problem that passed every check.

    Attributes
    ----------
    func : callable
        The user's vector field, called with states as the user has them.
    y0 : Tensor
        Floating point; flat if ``layout.is_tuple``. Of independent trajectories, shape
        ``(B, *flat)``: a flat state for each.
    t : Tensor
        Shape ``(T,)``, strictly monotonic; or ``(B, T)``, times for each trajectory.
    layout : StateLayout
        Of one trajectory, whose first dimension is 1, if they are independent.
    settings : SolverSettings
    event_fn : callable or None
        If given, ``t`` has two entries and only ``t[0]`` counts.
    trajectories : int or None
        How many independent ones there are; None for one state.
    number : int or None
        Which of some trajectories this one is.
    recurring : Recurring or None
        Shared with other problems that differ from this one in the values of tensors alone.
    """

    func: VectorField
    y0: Tensor
    t: Tensor
    layout: StateLayout
    settings: SolverSettings
    event_fn: EventFunction | None
    trajectories: int | None = None
    number: int | None = None
    recurring: Recurring | None = None

    def trajectory(self, number: int) -> Problem:
        """One of the independent trajectories, as a problem of its own."""
        return replace(
            self,
            y0=self.y0[number],
            t=self.t if self.t.ndim == 1 else self.t[number],
            trajectories=None,
            number=number,
            recurring=None,
        )

    @property
    def one(self) -> Problem:
        """A single state: the first trajectory, or the problem itself."""
        return self if self.trajectories is None else self.trajectory(0)

    @property
    def hollow(self) -> Problem:
        """The problem without its vector field and all values: what holds it holds nothing else."""
        y0, t = (torch.empty_like(x, device="meta").detach() for x in (self.y0, self.t))
        return replace(self, func=_no_field, y0=y0, t=t, recurring=None)

    def as_user_has_it(self, y: Tensor) -> Any:
        """The state at the observation times, ``(T, *flat)`` or ``(T, B, *flat)``, unflattened."""
        if self.trajectories is None:
            return self.layout.unflatten(y)
        parts = tuple(part.squeeze(2) for part in self.layout.components(y))
        return parts if self.layout.is_tuple else parts[0]


def _no_field(_t: Tensor, _y: Any) -> Any:
    raise AssertionError("a hollow problem was to be solved")


@dataclass(frozen=True)
class Form:
    """What the problems share that a training step poses again and again.

    Attributes
    ----------
    layout, settings, trajectories
        As in :class:`Problem`.
    recurring : Recurring
    """

    layout: StateLayout
    settings: SolverSettings
    trajectories: int | None
    recurring: Recurring

    def problem(self, func: VectorField, y0: State, t: Tensor) -> Problem:
        """Pose one of them: a state of the layout's shapes, whose times need to be checked.

        Raises
        ------
        ArgumentError
            For times as :func:`pose` refuses them.
        """
        _check_times(t, self.trajectories)
        layout = self.layout
        flat = layout.flatten(y0) if self.trajectories is None else layout.flatten_each(y0)
        return Problem(
            func, flat, t, layout, self.settings, None, self.trajectories, None, self.recurring
        )


@dataclass(frozen=True)
class Adjoint:
    """How the gradient of a :class:`Problem` is to be computed.

    Attributes
    ----------
    name : str
        One of :data:`ADJOINTS`.
    settings : SolverSettings
        Of the backward solve; its norm is a function of an ``AugmentedState``.
    params : tuple of Tensor
        The tensors θ that get a gradient; all require one.
    """

    name: str
    settings: SolverSettings
    params: tuple[Tensor, ...]


def pose(
    func: VectorField,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance,
    atol: Tolerance,
    method: Any,
    options: Mapping[str, Any] | None,
    event_fn: EventFunction | None,
    batch: str = "joint",
) -> Problem:
    """Check torchdiffeq's arguments, and ``batch``, and return the problem they describe.

    Raises
    ------
    ArgumentError
        Naming the argument, its value and what to do.
    """
    if not callable(func):
        raise ArgumentError("func", f"{describe(func)} is not callable; give f(t, y) -> dy/dt")
    _check_state(y0)
    trajectories = _trajectories(batch, y0, event_fn)
    _check_times(t, trajectories)
    layout = StateLayout.of(y0)
    if trajectories is not None:
        layout = layout.with_first_dimension(1)
    if event_fn is not None:
        if not callable(event_fn):
            raise ArgumentError("event_fn", f"{describe(event_fn)} is not callable")
        if len(t) != 2:
            raise ArgumentError(
                "t", f"has {len(t)} entries; with event_fn give two, of which the first counts"
            )
    own = _options("options", options)
    norm = bind_state_norm(own.pop("norm", "default"), layout)
    settings = SolverSettings(
        rtol=_check_tolerance("rtol", layout.flatten_tolerance("rtol", rtol)),
        atol=_check_tolerance("atol", layout.flatten_tolerance("atol", atol)),
        method=DEFAULT_METHOD if method is None else method,
        max_num_steps=_budget("options", own),
        options=own,
        norm=norm,
    )
    _check_not_both_zero(settings.rtol, settings.atol)
    flat = layout.flatten(y0) if trajectories is None else layout.flatten_each(y0)
    return Problem(func, flat, t, layout, settings, event_fn, trajectories)


def pose_adjoint(
    problem: Problem,
    *,
    method: Any,
    options: Mapping[str, Any] | None,
    adjoint_rtol: Tolerance | None,
    adjoint_atol: Tolerance | None,
    adjoint_method: Any,
    adjoint_options: Mapping[str, Any] | None,
    adjoint_params: Iterable[Tensor] | None,
    adjoint: str,
) -> Adjoint:
    """Check the adjoint's arguments, filling what is left out as torchdiffeq does.

    Raises
    ------
    ArgumentError
        Naming the argument, its value and what to do.
    """
    if adjoint not in ADJOINTS:
        names = ", ".join(repr(name) for name in ADJOINTS)
        raise ArgumentError("adjoint", f"{describe(adjoint)} is not one of {names}")
    if adjoint_method is None:
        adjoint_method = method
    if adjoint_method != method and options is not None and adjoint_options is None:
        raise ArgumentError(
            "adjoint_options",
            f"missing: options were given for method {describe(method)}, and cannot be taken over "
            f"for adjoint_method {describe(adjoint_method)}; give adjoint_options, {{}} for none",
        )
    if adjoint_options is None:
        adjoint_options = {key: value for key, value in (options or {}).items() if key != "norm"}
    own = _options("adjoint_options", adjoint_options)
    norm = own.pop("norm", "default")
    params = _adjoint_params(problem, adjoint_params, warn=callable(norm))
    forward, state = problem.settings, problem.one.y0
    settings = SolverSettings(
        rtol=_adjoint_tolerance("adjoint_rtol", adjoint_rtol, forward.rtol, state, params),
        atol=_adjoint_tolerance("adjoint_atol", adjoint_atol, forward.atol, state, params),
        method=DEFAULT_METHOD if adjoint_method is None else adjoint_method,
        max_num_steps=_budget("adjoint_options", own),
        options=own,
        norm=bind_adjoint_norm(norm, problem.layout, forward.norm),
    )
    return Adjoint(adjoint, settings, params)


def _check_state(y0: State) -> None:
    if isinstance(y0, Tensor):
        _check_component("y0", y0)
        return
    if not isinstance(y0, tuple):
        raise ArgumentError("y0", f"is a {type(y0).__name__}; give a tensor or a tuple of tensors")
    if not y0:
        raise ArgumentError("y0", "is an empty tuple; give at least one tensor")
    for index, component in enumerate(y0):
        _check_component(f"y0[{index}]", component)
    devices = {component.device for component in y0}
    if len(devices) > 1:
        named = ", ".join(sorted(map(str, devices)))
        raise ArgumentError("y0", f"has components on {named}; move them to one device")


def _check_component(name: str, y: Any) -> None:
    if not isinstance(y, Tensor):
        raise ArgumentError(name, f"{describe(y)} is no tensor")
    if y.is_complex():
        raise ArgumentError(
            name, f"has complex dtype {y.dtype}; solve for torch.view_as_real({name}) instead"
        )
    if not y.is_floating_point():
        raise ArgumentError(name, f"has dtype {y.dtype}; use a floating point dtype: y0.float()")
    if y.numel() == 0:
        raise ArgumentError(name, f"has no elements (shape {tuple(y.shape)})")


def _trajectories(batch: str, y0: State, event_fn: EventFunction | None) -> int | None:
    """How many independent trajectories were asked for."""
    if batch not in BATCHES:
        raise ArgumentError(
            "batch", f"{describe(batch)} is not one of {', '.join(map(repr, BATCHES))}"
        )
    if batch == "joint":
        return None
    if event_fn is not None:
        raise ArgumentError(
            "event_fn", "does not go with batch='independent'; solve one trajectory at a time"
        )
    components = y0 if isinstance(y0, tuple) else (y0,)
    lengths = {component.shape[0] if component.ndim else None for component in components}
    if None in lengths or len(lengths) > 1:
        shapes = ", ".join(str(tuple(component.shape)) for component in components)
        raise ArgumentError(
            "y0",
            f"has shape {shapes}; with batch='independent' the first dimension counts the "
            "trajectories, and every component has it",
        )
    return lengths.pop()


def _check_times(t: Any, trajectories: int | None) -> None:
    if type(t) is Tensor and t.ndim == 1 and t.is_floating_point() and _is_monotonic(t.tolist()):
        return  # what follows finds out what is wrong, or takes longer
    if not isinstance(t, Tensor):
        raise ArgumentError("t", f"{describe(t)} is no tensor; give torch.tensor([...])")
    if not t.is_floating_point():
        raise ArgumentError("t", f"has dtype {t.dtype}; use a floating point dtype: t.double()")
    if t.numel() > 0 and t.ndim == 2 and len(t) == trajectories:
        for number, times in enumerate(t.detach().tolist()):
            _check_monotonic(f"t[{number}]", times)
        return
    if t.ndim != 1 or len(t) == 0:
        or_rows = "" if trajectories is None else f", or one of shape ({trajectories}, T)"
        raise ArgumentError("t", f"has shape {tuple(t.shape)}; give a 1-d tensor of times{or_rows}")
    _check_monotonic("t", t.detach().tolist())


def _is_monotonic(times: Sequence[float]) -> bool:
    """Whether there are some, one after the other, which numbers that are not finite cannot be."""
    if not times or not -math.inf < times[0] < math.inf or not -math.inf < times[-1] < math.inf:
        return False
    later = islice(times, 1, None)
    return all(map(gt if times[-1] > times[0] else lt, later, times))


def _check_monotonic(name: str, times: Sequence[float]) -> None:
    for index, time in enumerate(times):
        if not math.isfinite(time):
            raise ArgumentError("t", f"{name}[{index}] = {time} is not finite")
    rises = [later - earlier for earlier, later in pairwise(times)]
    for index, rise in enumerate(rises):
        if rise == 0:
            raise ArgumentError(
                "t",
                f"{name}[{index}] = {name}[{index + 1}] = {times[index]:.9g}; times must not "
                "repeat: solve at torch.unique(t) and pick the rows afterwards",
            )
        if (rise > 0) != (rises[0] > 0):
            raise ArgumentError(
                "t",
                f"goes from {times[index]:.9g} to {times[index + 1]:.9g} at {name}[{index + 1}], "
                "against its first step; sort it, or solve each monotonic piece by itself",
            )


def _check_tolerance(name: str, tolerance: Any) -> Any:
    if type(tolerance) is float and 0 <= tolerance < math.inf:
        return tolerance  # what follows takes longer than a step of a small solve
    value = tolerance if isinstance(tolerance, Tensor) else None
    try:
        if value is None:
            value = torch.as_tensor(tolerance, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(name, f"{describe(tolerance)} is no number") from error
    if value.requires_grad:
        raise ArgumentError(name, "requires a gradient, which no solver gives; detach it")
    if not torch.isfinite(value).all() or (value < 0).any():
        raise ArgumentError(name, f"{describe(tolerance)}; give a finite number, 0 or more")
    return tolerance


def _check_not_both_zero(rtol: Any, atol: Any) -> None:
    if type(rtol) is float and rtol > 0:
        return
    if all(bool((torch.as_tensor(tolerance) == 0).all()) for tolerance in (rtol, atol)):
        raise ArgumentError("rtol", "rtol and atol are both 0, which no step size can meet")


def _adjoint_tolerance(
    name: str, given: Tolerance | None, forward: Any, y0: Tensor, params: tuple[Tensor, ...]
) -> Tolerance:
    if given is None:
        if not isinstance(forward, Tensor) or forward.ndim == 0:
            return cast("float | Tensor", forward)
        # torchdiffeq refuses a tolerance per channel here. The adjoint of a channel
        # is held to the channel's own tolerance, integrals to the tightest of all.
        channels = forward.expand(y0.shape).reshape(-1)
        tightest = channels.min()
        return (tightest, channels, channels, *[tightest] * len(params))
    if isinstance(given, Real) or (isinstance(given, Tensor) and given.ndim == 0):
        return cast("float | Tensor", _check_tolerance(name, given))
    parts = tuple(cast("Sequence[float | Tensor]", given))
    if len(parts) != 3 + len(params):
        raise ArgumentError(
            name,
            f"has {len(parts)} entries; give a number, or one entry for each of a_t, y, a_y and "
            f"the {len(params)} adjoint parameters that require a gradient",
        )
    return tuple(_check_tolerance(name, part) for part in parts)


def _options(name: str, options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ArgumentError(name, f"{describe(options)} is no dict of the method's options")
    return dict(options)


def _budget(name: str, options: dict[str, Any]) -> int | None:
    budget = options.pop("max_num_steps", None)
    if budget is None:
        return None
    try:
        whole = int(budget)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name}['max_num_steps']", f"{describe(budget)} is no number of steps"
        ) from error
    if whole < 1:
        raise ArgumentError(f"{name}['max_num_steps']", f"{whole}; give at least 1")
    return whole


def _adjoint_params(
    problem: Problem, given: Iterable[Tensor] | None, *, warn: bool
) -> tuple[Tensor, ...]:
    if given is None:
        if not isinstance(problem.func, nn.Module):
            raise ArgumentError(
                "adjoint_params",
                f"missing, and func is a {type(problem.func).__name__}, not an nn.Module whose "
                "parameters could be taken; give adjoint_params=(tensors that need a gradient), "
                "or () for none",
            )
        params = _parameters(problem.func)
    else:
        params = tuple(given)
    for index, param in enumerate(params):
        if not isinstance(param, Tensor):
            raise ArgumentError(f"adjoint_params[{index}]", f"{describe(param)} is no tensor")
        if param.device != problem.y0.device:
            raise ArgumentError(
                f"adjoint_params[{index}]",
                f"is on {param.device} and y0 on {problem.y0.device}; move them to one device",
            )
    # Named twice, a parameter would get its gradient twice.
    needed = tuple({id(param): param for param in params if param.requires_grad}.values())
    if warn and not all(param.requires_grad for param in params):
        warn_caller(
            "an adjoint parameter does not require a gradient: it is left out of the backward "
            "solve, and so does not appear in the adjoint norm"
        )
    return needed


def _parameters(module: nn.Module) -> tuple[Tensor, ...]:
    # Inside nn.DataParallel a replica's parameters are plain tensor attributes,
    # which module.parameters() does not list (torchdiffeq: find_parameters).
    if getattr(module, "_is_replica", False):
        return tuple(
            value
            for part in module.modules()
            for value in vars(part).values()
            if isinstance(value, Tensor) and value.requires_grad
        )
    return tuple(module.parameters())
