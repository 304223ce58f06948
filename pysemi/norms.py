r"""Norms that decide whether a step is accepted.

An adaptive solver accepts a step if the norm of its scaled error estimate is at
most 1 (paper, eq. 5). Forward, the norm measures the state y; backward, the
augmented state [a_t, y, a_y, a_θ]. What a user writes is a *specification*
(:data:`NormSpec`); :func:`bind_state_norm` and :func:`bind_adjoint_norm` turn it
into a function for one state layout. Every backend starts from the same two
calls, so that they accept and reject by the same number.

=============  ===================================  ========================================
specification  forward: norm of y                   backward: norm of [a_t, y, a_y, a_θ]
=============  ===================================  ========================================
"default"      largest RMS of a component           max(\|a_t\|, N(y), N(a_y), RMS of each
                                                    parameter's a_θ)
"seminorm"     (refused)                            max(\|a_t\|, N(y), N(a_y))
"rms"          RMS over all channels at once        max(\|a_t\|, RMS over y, a_y, a_θ at once)
StateNorm S    S(y)                                 max(\|a_t\|, S(y), S(a_y))
callable       called with y as the user has it     called with (a_t, \*y, \*a_y, \*a_θ)
=============  ===================================  ========================================

N is the forward norm of the same call. "default" is torchdiffeq's mixed norm
(paper, Appendix A) and "seminorm" the paper's proposal (section 2.2), both as
torchdiffeq 0.2.5 computes them. a_t is the adjoint of time, which torchdiffeq always
integrates (it is zero if the vector field does not depend on t); on Julia there is no such
channel, since :math:`dL/dt_i` is known without it, and a_t counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pysemi.errors import ArgumentError, describe
from pysemi.state import StateLayout

__all__ = ["AugmentedState", "BoundNorm", "NormSpec", "StateNorm", "bind_adjoint_norm", "rms"]

AugmentedState: TypeAlias = tuple[Tensor, ...]
"""(a_t, y, a_y, *a_θ), y and a_y flat, as the backward solve holds them."""

NORM_NAMES = ("default", "seminorm", "rms")


def rms(x: Tensor) -> Tensor:
    r"""Root mean square, :math:`\sqrt{\frac{1}{d}\sum_i |x_i|^2}`, of all channels of ``x``."""
    return x.abs().pow(2).mean().sqrt()


class StateNorm:
    r"""RMS norm of a state with weights: leaves out, or plays down, chosen channels.

    A channel that does not enter the vector field is only an integral, and its
    error cannot grow; the paper (section 2.2, "Other channels") leaves it out of
    the norm. The log-density of a continuous normalising flow is such a channel.

    Of each component the norm is :math:`\sqrt{\frac{1}{m}\sum_i |w_i x_i|^2}` with
    m the number of channels whose weight is not zero; the result is the largest
    over the components that have such a channel.

    Parameters
    ----------
    weights : sequence or Tensor
        One entry per component of the state (for a state that is one tensor, the
        entry itself may be given). An entry is a bool, a non-negative number, or
        a tensor of these that broadcasts to the component's shape.

    Raises
    ------
    ArgumentError
        If a weight is negative or not finite, or if all are zero.

    Examples
    --------
    >>> norm = StateNorm([True, False])  # a flow's (z, log-density): look at z only
    >>> options = {"norm": norm}
    """

    def __init__(self, weights: Sequence[bool | float | Tensor] | Tensor) -> None:
        entries = [weights] if isinstance(weights, Tensor) else list(weights)
        self.weights = tuple(torch.as_tensor(entry).detach().double() for entry in entries)
        if not self.weights:
            raise ArgumentError("StateNorm weights", "empty; give one entry per state component")
        for weight in self.weights:
            if not torch.isfinite(weight).all() or (weight < 0).any():
                raise ArgumentError(
                    "StateNorm weights",
                    f"{describe(weight.tolist())}; weights are finite and not negative",
                )
        if not any((weight != 0).any() for weight in self.weights):
            raise ArgumentError(
                "StateNorm weights", "all zero: every step would be accepted; keep some channel"
            )

    def bind(self, layout: StateLayout) -> Callable[[Tensor], Tensor]:
        """Return the norm as a function of the flat state.

        Raises
        ------
        ArgumentError
            If the number of entries or the shape of one does not fit ``layout``.
        """
        if len(self.weights) != len(layout.shapes):
            raise ArgumentError(
                "StateNorm weights",
                f"{len(self.weights)} entries for a state of {len(layout.shapes)} components",
            )
        spread = [
            self._spread(weight, shape)
            for weight, shape in zip(self.weights, layout.shapes, strict=True)
        ]
        counts = [int(torch.count_nonzero(weight)) for weight in spread]
        kept = [index for index, count in enumerate(counts) if count]
        cast: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}

        def norm(flat: Tensor) -> Tensor:
            kind = (flat.dtype, flat.device)
            if kind not in cast:
                cast[kind] = [weight.to(flat) for weight in spread]
            components = layout.components(flat)
            return largest(
                [
                    ((components[i] * cast[kind][i]).abs().pow(2).sum() / counts[i]).sqrt()
                    for i in kept
                ]
            )

        return norm

    @staticmethod
    def _spread(weight: Tensor, shape: torch.Size) -> Tensor:
        try:
            return weight.expand(shape)
        except RuntimeError as error:
            raise ArgumentError(
                "StateNorm weights",
                f"shape {tuple(weight.shape)} does not broadcast to a component {tuple(shape)}",
            ) from error

    def __repr__(self) -> str:
        return f"StateNorm({describe([weight.tolist() for weight in self.weights], 60)})"


NormSpec: TypeAlias = str | StateNorm | Callable[[Any], Any]
"""A norm's name, a :class:`StateNorm`, or a function of the state."""


@dataclass(frozen=True)
class BoundNorm:
    """A norm specification made ready for one solve.

    Attributes
    ----------
    name : str
        What :class:`pysemi.SolveStats` reports.
    spec : str, StateNorm or callable
        The specification it came from.
    function : callable
        Of the flat state (forward), or of an :data:`AugmentedState` (backward).
    """

    name: str
    spec: NormSpec
    function: Callable[[Any], Tensor] = field(repr=False)


def largest(values: Sequence[Tensor]) -> Tensor:
    """The largest of some 0-dim tensors; NaN if any of them is NaN.

    The tensor itself is returned, so that a gradient reaches it alone: that of
    an RMS at zero is NaN, and a maximum over all would spread it. (Python's
    ``max`` would drop a NaN that is not in first place.)
    """
    if len(values) == 1:
        return values[0]
    return values[int(torch.stack([value.detach() for value in values]).argmax())]


def norm_name(spec: NormSpec) -> str:
    """The name under which a specification is reported."""
    if isinstance(spec, str):
        return spec
    if isinstance(spec, StateNorm):
        return "StateNorm"
    return getattr(spec, "__qualname__", type(spec).__qualname__)


def bind_state_norm(spec: NormSpec, layout: StateLayout) -> BoundNorm:
    """Return the norm of the forward solve.

    Raises
    ------
    ArgumentError
        For an unknown name, and for ``"seminorm"``, which only means something
        where there are parameter channels to leave out.
    """
    function: Callable[[Tensor], Tensor]
    if isinstance(spec, StateNorm):
        function = spec.bind(layout)
    elif callable(spec):
        function = _user_norm(spec, layout.unflatten)
    elif spec == "default":
        function = _default_state_norm(layout)
    elif spec == "rms":
        function = rms
    elif spec == "seminorm":
        raise ArgumentError(
            "options['norm']",
            "'seminorm' leaves the parameter channels of the backward solve out of its norm, so "
            "it belongs in adjoint_options: odeint_adjoint(..., "
            "adjoint_options=dict(norm='seminorm'))",
        )
    else:
        raise ArgumentError("options['norm']", _unknown(spec))
    return BoundNorm(norm_name(spec), spec, function)


def bind_adjoint_norm(spec: NormSpec, layout: StateLayout, state_norm: BoundNorm) -> BoundNorm:
    """Return the norm of the backward solve, given the forward solve's.

    Raises
    ------
    ArgumentError
        For an unknown name.
    """
    of_state = state_norm.function
    function: Callable[[AugmentedState], Tensor]
    if isinstance(spec, StateNorm):
        function = _seminorm(spec.bind(layout))
    elif callable(spec):
        function = _user_norm(spec, _as_user_sees(layout))
    elif spec == "default":
        function = _mixed_norm(of_state)
    elif spec == "seminorm":
        function = _seminorm(of_state)
    elif spec == "rms":
        function = _rms_of_all
    else:
        raise ArgumentError("adjoint_options['norm']", _unknown(spec))
    return BoundNorm(norm_name(spec), spec, function)


def _default_state_norm(layout: StateLayout) -> Callable[[Tensor], Tensor]:
    if not layout.is_tuple:
        return rms
    return lambda flat: largest([rms(component) for component in layout.components(flat)])


def _mixed_norm(of_state: Callable[[Tensor], Tensor]) -> Callable[[AugmentedState], Tensor]:
    def default(augmented: AugmentedState) -> Tensor:
        a_t, y, a_y, *a_theta = augmented
        return largest([a_t.abs(), of_state(y), of_state(a_y), *map(rms, a_theta)])

    return default


def _seminorm(of_state: Callable[[Tensor], Tensor]) -> Callable[[AugmentedState], Tensor]:
    def seminorm(augmented: AugmentedState) -> Tensor:
        a_t, y, a_y, *_ = augmented
        return largest([a_t.abs(), of_state(y), of_state(a_y)])

    return seminorm


def _rms_of_all(augmented: AugmentedState) -> Tensor:
    a_t, *rest = augmented
    return largest([a_t.abs(), rms(torch.cat([part.reshape(-1) for part in rest]))])


def _as_user_sees(layout: StateLayout) -> Callable[[AugmentedState], AugmentedState]:
    def rearrange(augmented: AugmentedState) -> AugmentedState:
        a_t, y, a_y, *a_theta = augmented
        return (a_t, *layout.components(y), *layout.components(a_y), *a_theta)

    return rearrange


def _user_norm(
    norm: Callable[[Any], Any], rearrange: Callable[[Any], Any]
) -> Callable[[Any], Tensor]:
    def function(x: Any) -> Tensor:
        seen = rearrange(x)
        value = norm(seen)
        if isinstance(value, Tensor):
            return value
        like = seen[0] if isinstance(seen, tuple) else seen
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    return function


def _unknown(spec: object) -> str:
    names = ", ".join(repr(name) for name in NORM_NAMES)
    return f"{describe(spec)} is no norm; give one of {names}, a StateNorm or a callable"
