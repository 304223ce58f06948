"""Two backends on one model, side by side, and whether they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pysemi.comparison.gradient import Gradient, Measurement
from pysemi.comparison.measure import Setting, Solver, on_julia, on_torch, reference
from pysemi.comparison.models import STIFF_MODELS, build
from pysemi.stats import SolveStats

__all__ = ["Comparison", "Differences", "compare", "differences"]

BOUNDS = {torch.float64: 1e3, torch.float32: 1e2}
"""Largest relative difference of a loss or gradient, as a multiple of the tolerance: 1e-7 at
1e-10 in float64, 1e-3 at 1e-5 in float32."""

COUNT_SHARE = 0.05
COUNT_STEPS = 2
"""Under torchdiffeq's step size control the steps agree to this share or to this number of
them, whichever is more: rounding decides a step whose error is right at the tolerance."""


@dataclass(frozen=True)
class Differences:
    r"""How far two gradients are apart.

    Each number is :math:`\max_i |a_i - b_i| / \max_i |r_i|`, r the reference's own gradient
    (or loss), with all components of y0, all parameters, and all times as one vector each.

    Attributes
    ----------
    loss, y0, theta : float
    t : float or None
        None where the model has no gradient with respect to time that torchdiffeq gets right.
    params : dict of str to float
        For each parameter tensor by itself, relative to the reference's gradient of it.
    """

    loss: float
    y0: float
    theta: float
    t: float | None
    params: dict[str, float]

    def named(self) -> dict[str, float]:
        """Those that are held to a bound, by what they are differences of."""
        named = {"loss": self.loss, "dL/dy0": self.y0, "dL/dθ": self.theta}
        return named if self.t is None else {**named, "dL/dt": self.t}


@dataclass(frozen=True)
class Comparison:
    """A model as torch and Julia solved it.

    Attributes
    ----------
    name : str
        The model's.
    setting : Setting
    reference : Gradient
        In float64 on torch at 1e-12, of the same model (in float32: with the same rounded
        weights and initial state).
    torch, julia : Measurement
        Their last solves; dL/dt comes from the solve before, see :func:`compare`.
    """

    name: str
    setting: Setting
    reference: Gradient
    torch: Measurement
    julia: Measurement

    @property
    def stiff(self) -> bool:
        """Whether the model is, and torch solved it by its sensitivities."""
        return self.name in STIFF_MODELS

    @property
    def between(self) -> Differences:
        """Torch against Julia."""
        return differences(self.torch.gradient, self.julia.gradient, self.reference)

    @property
    def from_reference(self) -> tuple[Differences, Differences]:
        """Torch, and Julia, against the reference."""
        return (
            differences(self.torch.gradient, self.reference, self.reference),
            differences(self.julia.gradient, self.reference, self.reference),
        )

    @property
    def bound(self) -> float:
        """The largest difference between torch and Julia that passes."""
        return BOUNDS[self.setting.dtype] * self.setting.tolerance

    @property
    def disagreements(self) -> list[str]:
        """What is further apart than it may be, in words; empty if they agree."""
        found = [
            f"{what} differs by {value:.1e}, more than {self.bound:.0e}"
            for what, value in self.between.named().items()
            if not value <= self.bound
        ]
        if self.setting.controller == "torchdiffeq":
            found += _count_disagreements(self.torch.forward, self.julia.forward)
            if self.setting.adjoint == "backsolve":
                found += _count_disagreements(self.torch.backward, self.julia.backward)
        return found

    @property
    def agree(self) -> bool:
        """Whether everything is within its bound."""
        return not self.disagreements

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; numbers that are not finite become None."""
        setting = self.setting
        from_torch, from_julia = self.from_reference
        return {
            "model": self.name,
            "agree": self.agree,
            "disagreements": self.disagreements,
            "bound": self.bound,
            "dtype": str(setting.dtype).removeprefix("torch."),
            "rtol": setting.tolerance,
            "atol": setting.tolerance,
            "norm": setting.norm,
            "controller": setting.controller,
            "differences": {
                "torch_julia": _as_dict(self.between),
                "torch_reference": _as_dict(from_torch),
                "julia_reference": _as_dict(from_julia),
            },
            "reference": {"loss": self.reference.loss},
            "torch": _measured(self.torch),
            "julia": _measured(self.julia),
        }


def compare(
    name: str,
    setting: Setting | None = None,
    *,
    torch_solver: Solver = on_torch,
    julia_solver: Solver = on_julia,
) -> Comparison:
    """Solve a model on both backends and with high accuracy.

    Each backend solves twice, in turn. The first solve warms up, and is the one that dL/dt is
    taken from; loss, dL/dy0, dL/dθ, counts and seconds are the second's, which is not asked for
    dL/dt, as in training.

    Parameters
    ----------
    name : str
        One of :data:`pysemi.comparison.MODELS` or :data:`pysemi.comparison.STIFF_MODELS`.
    setting : Setting, optional
    torch_solver, julia_solver : callable, optional
        What is compared.

    Raises
    ------
    ArgumentError
        If the model is unknown, or a backend cannot do what the setting says.
    BackendUnavailableError
        If there is no usable Julia.
    MissingExtraError
        If the model needs a package that is not installed.
    SolveError
        If a solve fails.

    Examples
    --------
    >>> found = compare("spiral", Setting(norm="seminorm"))  # doctest: +SKIP
    >>> found.agree, found.between.theta  # doctest: +SKIP
    (True, 3.4e-09)
    """
    setting = Setting() if setting is None else setting
    case = build(name).to(setting.dtype)
    setting = setting.of(case)
    solvers = (torch_solver, julia_solver)
    warm = [solve(case, setting, case.has_time_gradient) for solve in solvers]
    counted = [solve(case, setting, False) for solve in solvers]
    on_both = [
        replace(second, gradient=replace(second.gradient, t=first.gradient.t))
        for first, second in zip(warm, counted, strict=True)
    ]
    return Comparison(name, setting, reference(name, setting.dtype), *on_both)


def differences(a: Gradient, b: Gradient, scale: Gradient) -> Differences:
    """How far ``a`` and ``b`` are apart, in units of ``scale``'s largest entries."""
    times = None
    if a.t is not None and b.t is not None and scale.t is not None:
        times = _relative(a.t, b.t, scale.t)
    return Differences(
        loss=_relative(*(torch.tensor(x.loss, dtype=torch.float64) for x in (a, b, scale))),
        y0=_relative(a.y0, b.y0, scale.y0),
        theta=_relative(a.theta, b.theta, scale.theta),
        t=times,
        params={
            name: _relative(a.params[name], b.params[name], scale.params[name])
            for name in scale.params
        },
    )


def _relative(a: Tensor, b: Tensor, scale: Tensor) -> float:
    difference = float((a - b).abs().max())
    largest = float(scale.abs().max())
    if difference == 0:
        return 0.0
    return difference / largest if largest > 0 else math.inf


def _count_disagreements(on_torch: SolveStats, on_julia: SolveStats) -> list[str]:
    found = []
    for kind in ("accepted", "rejected"):
        theirs, ours = getattr(on_torch, kind), getattr(on_julia, kind)
        if theirs is None or ours is None:
            continue  # a method that does not report its steps
        if abs(theirs - ours) > max(COUNT_STEPS, COUNT_SHARE * theirs):
            found.append(
                f"{on_torch.direction}, {theirs} steps are {kind} on torch and {ours} on Julia"
            )
    return found


def _measured(measurement: Measurement) -> dict[str, Any]:
    return {
        "loss": _finite(measurement.gradient.loss),
        "seconds": measurement.seconds,
        "forward": _counts(measurement.forward),
        "backward": _counts(measurement.backward),
    }


def _counts(stats: SolveStats) -> dict[str, Any]:
    keys = ("method", "adjoint", "bridge", "norm", "nfe", "nvjp", "accepted", "rejected", "seconds")
    return {key: getattr(stats, key) for key in keys}


def _as_dict(found: Differences) -> dict[str, Any]:
    return {
        "loss": _finite(found.loss),
        "y0": _finite(found.y0),
        "theta": _finite(found.theta),
        "t": None if found.t is None else _finite(found.t),
        "params": {name: _finite(value) for name, value in found.params.items()},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
