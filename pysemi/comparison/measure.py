"""One solve of a model by one backend: loss, gradient, statistics, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pysemi.api import odeint_adjoint
from pysemi.comparison.gradient import Gradient, Measurement
from pysemi.comparison.models import Case, build
from pysemi.comparison.sensitivities import by_sensitivities
from pysemi.methods import DEFAULT_METHOD, torchdiffeq_methods
from pysemi.stats import record

__all__ = ["Setting", "Solver", "on_julia", "on_torch", "reference"]

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
    method : str or None
        A name of torchdiffeq's or OrdinaryDiffEq's. Where torchdiffeq has not got it,
        torch solves with "dopri5". None: "dopri5", or "Rodas5P" for a stiff model.
    norm : str
        Of the backward solve: "default", "seminorm" or "rms".
    adjoint : str or None
        Of the Julia backend; torch has "backsolve" alone. None: "backsolve", or
        "quadrature" for a stiff model.
    bridge : str
    controller : {"default", "torchdiffeq"}
        Step size control of the Julia backend; an adjoint other than "backsolve" has only
        the default, and then this is of the forward solve alone.
    """

    dtype: torch.dtype = torch.float64
    rtol: float | None = None
    method: str | None = None
    norm: str = "default"
    adjoint: str | None = None
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

    def of(self, case: Case) -> Setting:
        """With what is left open decided for a model."""
        method, adjoint = ("Rodas5P", "quadrature") if case.stiff else (DEFAULT_METHOD, "backsolve")
        return replace(
            self,
            method=method if self.method is None else self.method,
            adjoint=adjoint if self.adjoint is None else self.adjoint,
        )


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
    """Solve with torchdiffeq, or a stiff model by its sensitivities."""
    if case.stiff:
        return by_sensitivities(case, setting.tolerance, t_gradient)
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
    setting = setting.of(case)
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
        atol=setting.tolerance if case.sizes is None else setting.tolerance * case.sizes,
        adjoint_atol=setting.tolerance,
        method=setting.method,
        options=forward,
        adjoint_options=backward,
        adjoint=setting.adjoint,
        bridge=setting.bridge,
        backend="julia",
    )


@cache
def reference(name: str, dtype: torch.dtype) -> Gradient:
    """Solve a model in float64 on torch, as exactly as that goes; a stiff one with SciPy.

    Parameters
    ----------
    name : str
    dtype : torch.dtype
        What weights and initial state are rounded to before.
    """
    case = build(name).to(dtype).to(torch.float64)
    if case.stiff:
        return by_sensitivities(case, REFERENCE_TOLERANCE, case.has_time_gradient).gradient
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
