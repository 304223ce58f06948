"""One solve of a model by one backend: loss, gradient, statistics, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pysemi.api import odeint_adjoint
from pysemi.comparison.models import Case, build
from pysemi.methods import DEFAULT_METHOD, torchdiffeq_methods
from pysemi.stats import SolveStats, record

__all__ = ["Gradient", "Measurement", "Setting", "Solver", "on_julia", "on_torch", "reference"]

DEFAULT_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
REFERENCE_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Setting:
    """How a model is to be solved.

    Attributes
    ----------
    dtype : torch.dtype
        float32 or float64.
    rtol : float or None
        Relative and absolute tolerance; None: 1e-10 in float64, 1e-5 in float32.
    method : str
        A name of torchdiffeq's or OrdinaryDiffEq's. Where torchdiffeq has not got it,
        torch solves with "dopri5".
    norm : str
        Of the backward solve: "default", "seminorm" or "rms".
    adjoint : str
        Of the Julia backend; torch has "backsolve" alone.
    bridge : str
    controller : {"default", "torchdiffeq"}
        Step size control of the Julia backend; an adjoint other than "backsolve" has only
        the default, and then this is of the forward solve alone.
    """

    dtype: torch.dtype = torch.float64
    rtol: float | None = None
    method: str = DEFAULT_METHOD
    norm: str = "default"
    adjoint: str = "backsolve"
    bridge: str = "auto"
    controller: Literal["default", "torchdiffeq"] = "default"

    @property
    def tolerance(self) -> float:
        """Rtol and atol of both directions."""
        return DEFAULT_TOLERANCES[self.dtype] if self.rtol is None else self.rtol

    @property
    def method_on_torch(self) -> str:
        """What torch solves with."""
        return self.method if self.method in torchdiffeq_methods() else DEFAULT_METHOD


@dataclass(frozen=True)
class Gradient:
    """A loss and its gradient, in float64.

    Attributes
    ----------
    loss : float
    y0 : Tensor
        All components in one vector.
    params : dict of str to Tensor
        Each parameter's, flat, by name.
    t : Tensor or None
        Shape ``(T,)``; None if it was not asked for.
    """

    loss: float
    y0: Tensor
    params: dict[str, Tensor]
    t: Tensor | None

    @property
    def theta(self) -> Tensor:
        """All parameters' in one vector."""
        return torch.cat(list(self.params.values()))


@dataclass(frozen=True)
class Measurement:
    """What one solve of a model, forward and backward, gave and cost.

    Attributes
    ----------
    gradient : Gradient
    forward, backward : SolveStats
    seconds : float
        Wall time, with all overhead.
    """

    gradient: Gradient
    forward: SolveStats
    backward: SolveStats
    seconds: float


Solver: TypeAlias = Callable[[Case, Setting, bool], Measurement]
"""Solves a case, given in the setting's dtype; the last argument: is dL/dt wanted?"""


class _TimeHidden(nn.Module):
    """A vector field whose derivative with respect to time autograd does not see.

    torchdiffeq 0.2.5 integrates a_t although nobody asks for dL/dt (in ``adjoint.py``,
    ``t_`` and ``t`` are one tensor, and ``requires_grad_`` works in place), and it is a
    part of its norm: where f depends on time it takes more steps than the adjoint
    equations ask for, and than Julia, which integrates no a_t.
    """

    def __init__(self, func: nn.Module) -> None:
        super().__init__()
        self.func = func

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.func(t.detach(), y)


def on_torch(case: Case, setting: Setting, t_gradient: bool) -> Measurement:
    """Solve with torchdiffeq."""
    return _solve(
        case,
        case.func if t_gradient else _TimeHidden(case.func),
        t_gradient,
        rtol=setting.tolerance,
        atol=setting.tolerance,
        method=setting.method_on_torch,
        options=dict(case.options),
        adjoint_options={**case.options, "norm": setting.norm},
        backend="torch",
    )


def on_julia(case: Case, setting: Setting, t_gradient: bool) -> Measurement:
    """Solve with DifferentialEquations.jl.

    Raises
    ------
    BackendUnavailableError
        If there is no usable Julia.
    """
    forward = dict(case.options)
    backward = {**case.options, "norm": setting.norm}
    if setting.controller != "default":
        forward["controller"] = setting.controller
        if setting.adjoint == "backsolve":
            backward["controller"] = setting.controller
    return _solve(
        case,
        case.func,
        t_gradient,
        rtol=setting.tolerance,
        atol=setting.tolerance,
        method=setting.method,
        options=forward,
        adjoint_options=backward,
        adjoint=setting.adjoint,
        bridge=setting.bridge,
        backend="julia",
    )


@cache
def reference(name: str, dtype: torch.dtype) -> Gradient:
    """Solve a model in float64 on torch, as exactly as that goes.

    Parameters
    ----------
    name : str
    dtype : torch.dtype
        What weights and initial state are rounded to before.
    """
    case = build(name).to(dtype).to(torch.float64)
    solved = _solve(
        case,
        case.func,
        case.has_time_gradient,
        rtol=REFERENCE_TOLERANCE,
        atol=REFERENCE_TOLERANCE,
        method=DEFAULT_METHOD,
        options=dict(case.options),
        adjoint_options=dict(case.options),
        backend="torch",
    )
    return solved.gradient


def _solve(case: Case, func: nn.Module, t_gradient: bool, **solver: Any) -> Measurement:
    is_tensor = isinstance(case.y0, Tensor)
    parts = (case.y0,) if isinstance(case.y0, Tensor) else case.y0
    leaves = tuple(part.detach().clone().requires_grad_() for part in parts)
    t = case.t.clone().requires_grad_(t_gradient)
    named = dict(case.func.named_parameters())
    with record() as recording:
        began = time.perf_counter()
        y = odeint_adjoint(func, leaves[0] if is_tensor else leaves, t, **solver)
        loss = case.loss(y)
        wanted = (*leaves, *named.values(), *((t,) if t_gradient else ()))
        grads = torch.autograd.grad(loss, wanted)
        seconds = time.perf_counter() - began
    flat = [grad.double().reshape(-1) for grad in grads]
    gradient = Gradient(
        loss=float(loss.detach()),
        y0=torch.cat(flat[: len(leaves)]),
        params=dict(zip(named, flat[len(leaves) :], strict=False)),
        t=flat[-1] if t_gradient else None,
    )
    (forward,), (backward,) = recording.forward, recording.backward
    return Measurement(gradient, forward, backward, seconds)
