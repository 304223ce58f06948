"""A direction's settings in the form that PySemi.jl takes them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.errors import ArgumentError, describe
from pysemi.methods import julia_algorithm
from pysemi.norms import BoundNorm, StateNorm, bind_state_norm
from pysemi.problem import DEFAULT_MAX_NUM_STEPS, Adjoint, Problem, SolverSettings
from pysemi.runtime.border import CSettings, ForeignNormFunction
from pysemi.state import StateLayout
from pysemi.warn import warn_caller

__all__ = ["JuliaSettings", "adjoint_settings", "check_settings", "forward_settings"]

CONTROLLERS = ("default", "torchdiffeq")
TWINS = ("DP5", "BS3")
"""Algorithms that have torchdiffeq's own steps (``julia/PySemi/src/torchdiffeq.jl``)."""

_TAKEN = {
    "controller",
    "first_step",
    "safety",
    "ifactor",
    "dfactor",
    "jump_t",
    "step_t",
    "checkpoints",
}
_CONTROL = ("safety", "ifactor", "dfactor")
_REFUSED = {"min_step", "max_step"}


class JuliaSettings:
    """Settings, and the memory that their C form points into.

    Attributes
    ----------
    c : CSettings
        Valid as long as this object lives.
    algorithm : str
        OrdinaryDiffEq's name.
    error : BaseException or None
        What the user's norm raised.
    calls_python : bool
        Whether the norm does; then only one thread can solve by them at a time.
    """

    def __init__(
        self,
        settings: SolverSettings,
        rtol: NDArray[np.float64],
        atol: NDArray[np.float64],
        norm: _Components | _Callable,
    ) -> None:
        options = settings.options
        self.algorithm = julia_algorithm(settings.method)
        self.error: BaseException | None = None
        self._kept: list[Any] = []
        c = self.c = CSettings()
        c.algorithm = self._text(self.algorithm)
        c.rtol, c.nrtol = self._array(rtol)
        c.atol, c.natol = self._array(atol)
        self.calls_python = isinstance(norm, _Callable)
        if isinstance(norm, _Components):
            pairs = np.asarray(norm.ranges, dtype=np.int64).reshape(-1)
            c.components, c.ncomponents = self._array(pairs)[0], len(norm.ranges)
            c.weights, c.nweights = self._array(norm.weights)
        else:
            c.norm = self._function(norm)
        budget = settings.max_num_steps
        c.maxiters = DEFAULT_MAX_NUM_STEPS if budget is None else budget
        c.torchdiffeq = int(options.get("controller", "default") == "torchdiffeq")
        c.first_step = float(options.get("first_step") or 0.0)
        c.safety = float(options.get("safety", 0.9))
        c.ifactor = float(options.get("ifactor", 10.0))
        c.dfactor = float(options.get("dfactor", 0.2))
        c.jumps, c.njumps = self._array(_times(options.get("jump_t")))
        c.steps, c.nsteps = self._array(_times(options.get("step_t")))

    def _text(self, text: str) -> int:
        buffer = ctypes.create_string_buffer(text.encode())
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _array(self, values: NDArray[Any]) -> tuple[int, int]:
        self._kept.append(values)
        return values.__array_interface__["data"][0], len(values)

    def _function(self, norm: _Callable) -> int:
        kind = ctypes.c_float if norm.dtype == torch.float32 else ctypes.c_double

        def call(address: int, length: int) -> float:
            try:
                memory = (kind * length).from_address(address)
                return float(norm.function(torch.frombuffer(memory, dtype=norm.dtype)))
            except BaseException as error:  # it cannot pass through Julia
                self.error = error
                return -1.0

        wrapped = ForeignNormFunction(call)
        self._kept.append(wrapped)
        address = ctypes.cast(wrapped, ctypes.c_void_p).value
        assert address is not None
        return address


class _Components:
    """A norm that is the largest of some weighted RMS, for which Julia needs no Python."""

    def __init__(self, ranges: Sequence[tuple[int, int]], weights: NDArray[np.float64]) -> None:
        self.ranges = list(ranges)
        self.weights = weights

    def shifted(self, by: int) -> list[tuple[int, int]]:
        return [(first + by, last + by) for first, last in self.ranges]


class _Callable:
    def __init__(self, function: Any, dtype: torch.dtype) -> None:
        self.function = function
        self.dtype = dtype


_NO_WEIGHTS = np.empty(0, dtype=np.float64)


def check_settings(name: str, settings: SolverSettings) -> None:
    """Refuse what the Julia backend does not have.

    Raises
    ------
    ArgumentError
    """
    algorithm = julia_algorithm(settings.method)
    options = settings.options
    controller = options.get("controller", "default")
    if controller not in CONTROLLERS:
        raise ArgumentError(
            f"{name}['controller']",
            f"{describe(controller)} is not one of {', '.join(map(repr, CONTROLLERS))}",
        )
    if controller == "torchdiffeq" and algorithm not in TWINS:
        raise ArgumentError(
            f"{name}['controller']",
            f"'torchdiffeq' is for the methods 'dopri5' and 'bosh3', not {settings.method!r}",
        )
    if controller != "torchdiffeq":
        given = [key for key in _CONTROL if key in options]
        if given:
            raise ArgumentError(
                f"{name}[{given[0]!r}]",
                "belongs to torchdiffeq's step size control; give controller='torchdiffeq' with "
                "it, or leave it out",
            )
    kept = options.get("checkpoints", 1)
    if not isinstance(kept, int) or isinstance(kept, bool) or kept < 1:
        raise ArgumentError(
            f"{name}['checkpoints']", f"{describe(kept)}; give a number of states, 1 or more"
        )
    for key in _REFUSED & set(options):
        raise ArgumentError(f"{name}[{key!r}]", "is not available with backend='julia'")
    dtype = options.get("dtype", torch.float64)
    if dtype != torch.float64:
        raise ArgumentError(f"{name}['dtype']", f"{dtype}: on Julia time is always float64")
    unknown = set(options) - _TAKEN - {"dtype"}
    if unknown:
        # As torchdiffeq does.
        warn_caller(f"{name}: unexpected {sorted(unknown)}")


def forward_settings(problem: Problem) -> JuliaSettings:
    """Settings of the forward solve."""
    settings = problem.settings
    plain = (settings.rtol, settings.atol, settings.method, settings.norm.spec)
    options = tuple(settings.options.items())
    if all(type(value) in (float, int, str) for value in (*plain, *dict(options).values())):
        return _plain_settings(*plain, settings.max_num_steps, options, problem.layout)
    return JuliaSettings(
        settings,
        _spread(settings.rtol, problem.y0),
        _spread(settings.atol, problem.y0),
        _state_norm(settings.norm, problem),
    )


@lru_cache(maxsize=64)
def _plain_settings(
    rtol: float,
    atol: float,
    method: str,
    norm: str,
    max_num_steps: int | None,
    options: tuple[tuple[str, float | int | str], ...],
    layout: StateLayout,
) -> JuliaSettings:
    """Settings that most solves have, made once: nothing in them is written to."""
    bound = bind_state_norm(norm, layout)
    settings = SolverSettings(rtol, atol, method, dict(options), bound, max_num_steps)
    components = _components(bound, layout)
    assert components is not None
    return JuliaSettings(settings, _number(rtol), _number(atol), components)


def adjoint_settings(problem: Problem, adjoint: Adjoint, packed: int) -> JuliaSettings:
    """Settings of the backward solve.

    Parameters
    ----------
    packed : int
        Length of the parameter part of Julia's augmented state [λ; a_θ; y], which is
        longer than all parameters together where there are none.
    """
    settings = adjoint.settings
    if adjoint.name == "discrete":  # over the steps that there are
        return forward_settings(problem)
    if adjoint.name in ("backsolve", "interpolating"):
        channels = _Channels(problem, adjoint, packed)
        return JuliaSettings(
            settings,
            channels.tolerance(settings.rtol),
            channels.tolerance(settings.atol),
            channels.norm(),
        )
    # The state is λ alone.
    norm = _state_norm(_norm_of_cotangent(problem, adjoint), problem)
    rtol, atol = (
        _spread(t if not isinstance(t, tuple) else t[2], problem.y0)
        for t in (settings.rtol, settings.atol)
    )
    return JuliaSettings(settings, rtol, atol, norm)


def _norm_of_cotangent(problem: Problem, adjoint: Adjoint) -> BoundNorm:
    norm = adjoint.settings.norm
    if isinstance(norm.spec, StateNorm) or norm.spec == "rms":
        return norm
    if callable(norm.spec):
        raise ArgumentError(
            "adjoint_options['norm']",
            f"a callable norm looks at the whole augmented state; with adjoint={adjoint.name!r} "
            "there is only λ: give 'default', 'rms' or a StateNorm",
        )
    return problem.settings.norm


def _state_norm(norm: BoundNorm, problem: Problem) -> _Components | _Callable:
    found = _components(norm, problem.layout)
    if found is not None:
        return found
    shape, dtype = problem.y0.shape, problem.y0.dtype
    return _Callable(lambda flat: norm.function(flat.view(shape)), dtype)


def _components(norm: BoundNorm, layout: StateLayout) -> _Components | None:
    """The norm of a state as ranges and weights; None for a callable."""
    sizes = layout.sizes
    ends = np.cumsum(sizes)
    each = [(int(end) - size + 1, int(end)) for end, size in zip(ends, sizes, strict=True)]
    if norm.spec == "rms":
        return _Components([(1, int(ends[-1]))], _NO_WEIGHTS)
    if norm.spec == "default":
        return _Components(each, _NO_WEIGHTS)
    if isinstance(norm.spec, StateNorm):
        spread = [
            weight.expand(shape).reshape(-1)
            for weight, shape in zip(norm.spec.weights, layout.shapes, strict=True)
        ]
        return _Components(each, torch.cat(spread).numpy().astype(np.float64))
    return None


class _Channels:
    """Julia's augmented state [λ; a_θ; y], or [λ; a_θ] where y is interpolated."""

    def __init__(self, problem: Problem, adjoint: Adjoint, packed: int) -> None:
        self._problem = problem
        self._adjoint = adjoint
        self._packed = packed
        self._size = problem.y0.numel()
        self._lengths = [param.numel() for param in adjoint.params]
        self._has_y = adjoint.name == "backsolve"

    def norm(self) -> _Components | _Callable:
        problem = self._problem
        norm = self._adjoint.settings.norm
        if norm.spec == "rms":
            counted = np.ones(self._size * (1 + self._has_y) + self._packed)
            # A silent parameter, where there are none.
            counted[self._size + sum(self._lengths) : self._size + self._packed] = 0
            return _Components([(1, len(counted))], counted)
        own = norm if isinstance(norm.spec, StateNorm) else problem.settings.norm
        state = (
            None if callable(norm.spec) and own is not norm else _components(own, problem.layout)
        )
        if state is None:
            return _Callable(self._as_tensors(norm), problem.y0.dtype)
        ranges = list(state.ranges)
        if self._has_y:
            ranges += state.shifted(self._size + self._packed)
        if norm.spec == "default":
            ends = np.cumsum([self._size, *self._lengths])
            ranges += [
                (int(end) + 1, int(end) + n) for end, n in zip(ends, self._lengths, strict=False)
            ]
        weights = _NO_WEIGHTS
        if len(state.weights):
            of_y = [state.weights] if self._has_y else []
            weights = np.concatenate([state.weights, np.ones(self._packed), *of_y])
        return _Components(ranges, weights)

    def _as_tensors(self, norm: BoundNorm) -> Any:
        """The norm as a function of Julia's vector."""
        if not self._has_y:
            raise ArgumentError(
                "adjoint_options['norm']",
                "a callable norm looks at the whole augmented state; with "
                f"adjoint={self._adjoint.name!r} there is no y in it: give 'default', 'seminorm', "
                "'rms' or a StateNorm",
            )
        size, packed, lengths = self._size, self._packed, self._lengths
        shape = self._problem.y0.shape
        shapes = [param.shape for param in self._adjoint.params]

        def function(flat: Tensor) -> Tensor:
            a_y, middle, y = flat.split([size, packed, size])
            pieces = middle[: sum(lengths)].split(lengths)
            a_theta = [piece.view(s) for piece, s in zip(pieces, shapes, strict=True)]
            return norm.function((flat.new_zeros(()), y.view(shape), a_y.view(shape), *a_theta))

        return function

    def tolerance(self, tolerance: Any) -> NDArray[np.float64]:
        """One given per part (a_t, y, a_y, a_θ...) in Julia's order."""
        if not isinstance(tolerance, tuple):
            return _number(tolerance)
        _, y, a_y, *a_theta = tolerance
        params = self._adjoint.params
        parts = [_full(a_y, self._problem.y0)]
        parts += [_full(part, param) for part, param in zip(a_theta, params, strict=True)]
        parts.append(np.ones(self._packed - sum(self._lengths)))
        if self._has_y:
            parts.append(_full(y, self._problem.y0))
        return np.concatenate(parts)


def _spread(tolerance: Any, like: Tensor) -> NDArray[np.float64]:
    if isinstance(tolerance, Tensor) and tolerance.ndim > 0:
        return _full(tolerance, like)
    return _number(tolerance)


def _full(tolerance: Any, like: Tensor) -> NDArray[np.float64]:
    value = torch.as_tensor(tolerance, dtype=torch.float64)
    if value.numel() == like.numel():
        value = value.reshape(like.shape)
    spread: NDArray[np.float64] = value.expand(like.shape).reshape(-1).contiguous().numpy()
    return spread


def _number(tolerance: Any) -> NDArray[np.float64]:
    return np.array([float(tolerance)], dtype=np.float64)


def _times(times: Any) -> NDArray[np.float64]:
    if times is None:
        return np.empty(0, dtype=np.float64)
    values: NDArray[np.float64] = (
        torch.as_tensor(times).detach().to(device="cpu", dtype=torch.float64).reshape(-1).numpy()
    )
    return np.sort(values)
