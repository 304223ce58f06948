"""One solve of a model by one backend: loss, gradient, statistics, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pysemi.api import odeint_adjoint
from pysemi.comparison.models import Case
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
        """rtol and atol."""
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
    t : Tensor
        Shape ``(T,)``.
    """

    loss: float
    y0: Tensor
    params: dict[str, Tensor]
    t: Tensor

    @property
    def theta(self) -> Tensor:
        """All parameters' in one vector."""
        return torch.cat(list(self.params.values()))


@dataclass(frozen=True)
class Measurement:
    """What one backend makes of a model.

    Attributes
    ----------
    gradient : Gradient
        ``loss``, ``y0`` and ``params`` come from the solve that is counted. ``t`` comes
        from one before it: torchdiffeq integrates dL/dt as a channel of the backward
        solve, where it takes part in choosing the steps, so it is left out of the counts.
    forward, backward : SolveStats
    seconds : float
        Wall time of the second solve, forward and backward with all overhead.
    """

    gradient: Gradient
    forward: SolveStats
    backward: SolveStats
    seconds: float


Solver: TypeAlias = Callable[[Case, Setting, bool], Measurement]
"""Solves a case, given in the setting's dtype; the last argument: is dL/dt wanted?"""


def on_torch(case: Case, setting: Setting, t_gradient: bool) -> Measurement:
    """Solve with torchdiffeq."""
    return _solve(
        case,
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


def reference(case: Case) -> Gradient:
    """Solve in float64 on torch, as exactly as that goes."""
    solved = _solve(
        case.to(torch.float64),
        True,
        rtol=REFERENCE_TOLERANCE,
        atol=REFERENCE_TOLERANCE,
        method=DEFAULT_METHOD,
        options=dict(case.options),
        adjoint_options=dict(case.options),
        backend="torch",
    )
    return solved.gradient


def _solve(case: Case, t_gradient: bool, **solver: Any) -> Measurement:
    is_tensor = isinstance(case.y0, Tensor)
    parts = (case.y0,) if isinstance(case.y0, Tensor) else case.y0
    leaves = tuple(part.detach().clone().requires_grad_() for part in parts)
    t = case.t.clone().requires_grad_(t_gradient)
    named = dict(case.func.named_parameters())
    with record() as recording:
        began = time.perf_counter()
        y = odeint_adjoint(case.func, leaves[0] if is_tensor else leaves, t, **solver)
        loss = case.loss(y)
        wanted = (*leaves, *named.values(), *((t,) if t_gradient else ()))
        grads = torch.autograd.grad(loss, wanted)
        seconds = time.perf_counter() - began
    flat = [grad.double().reshape(-1) for grad in grads]
    gradient = Gradient(
        loss=float(loss.detach()),
        y0=torch.cat(flat[: len(leaves)]),
        params=dict(zip(named, flat[len(leaves) :], strict=False)),
        t=flat[-1] if t_gradient else torch.zeros_like(case.t),
    )
    (forward,), (backward,) = recording.forward, recording.backward
    return Measurement(gradient, forward, backward, seconds)
