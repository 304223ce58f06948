"""The models that both backends are held against: small, seeded, each hard in its own way.

All are smooth between their jump times. A kink (ReLU's) would leave two solvers with
different steps further apart than their tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pysemi.errors import ArgumentError, MissingExtraError, describe
from pysemi.models.neural_cde import ControlledField, MatrixField
from pysemi.state import State

__all__ = ["MODELS", "STIFF_MODELS", "Case", "build", "weighted_loss"]


@dataclass(frozen=True)
class Case:
    """A vector field, where to solve it, and a loss of the solution.

    Attributes
    ----------
    func : nn.Module
    y0 : Tensor or tuple of Tensor
    t : Tensor
        Shape ``(T,)``, always float64.
    loss : callable
        Maps the solution, shape ``(T, *y0.shape)`` (each component's, for a tuple), to
        a scalar in the solution's dtype.
    options : mapping
        Solver options that belong to the model, such as ``jump_t``; for both directions.
    has_time_gradient : bool
        Whether torchdiffeq can say what dL/dt is. Where f jumps it cannot: it gets
        dL/dt_0 by integrating ∂f/∂t, which is zero on both sides of a jump.
    stiff : bool
        Whether it wants an implicit solver, which torchdiffeq has not got.
    sizes : Tensor or None
        How large the entries of a state are, which the absolute tolerance of the forward
        solve is relative to; broadcasts with ``y0``. None: as large as 1.
    """

    func: nn.Module
    y0: State
    t: Tensor
    loss: Callable[[State], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    has_time_gradient: bool = True
    stiff: bool = False
    sizes: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Case:
        """A copy with module and initial state rounded to ``dtype``."""
        y0 = self.y0
        rounded = y0.to(dtype) if isinstance(y0, Tensor) else tuple(part.to(dtype) for part in y0)
        return replace(self, func=copy.deepcopy(self.func).to(dtype), y0=rounded)


def build(name: str) -> Case:
    """Build a model, in float64 and the same each time.

    Parameters
    ----------
    name : str
        One of :data:`MODELS` or :data:`STIFF_MODELS`.

    Raises
    ------
    ArgumentError
        If there is no such model.
    MissingExtraError
        If it needs a package that is not installed.
    """
    known = {**MODELS, **STIFF_MODELS}
    if name not in known:
        raise ArgumentError("NAME", f"{describe(name)} is not one of {', '.join(known)}")
    return known[name](torch.Generator().manual_seed(2021))


def weighted_loss(y: State) -> Tensor:
    """A loss to which every entry of the solution at every time contributes differently."""
    parts = (y,) if isinstance(y, Tensor) else y
    losses = []
    for part in parts:
        weights = torch.linspace(0.2, 1.3, part.numel(), dtype=part.dtype).view(part.shape)
        losses.append((weights * (part + 0.3) ** 2).mean())
    return torch.stack(losses).sum()


class Spiral(nn.Module):
    """A perceptron on y³: torchdiffeq's first demo."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Map y of shape ``(..., 2)`` to dy/dt."""
        out: Tensor = self.net(y**3)
        return out


class Hamiltonian(nn.Module):
    r"""Hamilton's equations of a perceptron H(q, p): autograd inside the vector field.

    Greydanus, Dzamba & Yosinski, "Hamiltonian Neural Networks", NeurIPS 2019.
    """

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.energy = nn.Sequential(
            nn.Linear(2 * positions, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Softplus(),
            nn.Linear(width, 1),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Map (q, p) of shape ``(..., 2 * positions)`` to (dH/dp, -dH/dq)."""
        with torch.enable_grad():
            y = y.requires_grad_()
            energy = self.energy(y).sum()
            (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        dq, dp = slope.chunk(2, dim=-1)
        return torch.cat([dp, -dq], dim=-1)


class ConcatSquash(nn.Module):
    """A linear layer whose output is gated and shifted by time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)
        self.gate = nn.Linear(1, outputs)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Map x of shape ``(..., inputs)`` at time t of shape ``()``."""
        time = t.view(1, 1)
        out: Tensor = self.layer(x) * torch.sigmoid(self.gate(time)) + self.shift(time)
        return out


class NormalisingFlow(nn.Module):
    r"""A continuous normalising flow with the exact trace, for states (z, log p).

    Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud, "FFJORD", ICLR 2019.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inner = ConcatSquash(channels, width)
        self.middle = ConcatSquash(width, width)
        self.outer = ConcatSquash(width, channels)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Map z of shape ``(batch, channels)`` and log p to dz/dt and -tr(∂(dz/dt)/∂z)."""
        z, _ = state
        with torch.enable_grad():
            z = z.requires_grad_()
            hidden = torch.nn.functional.softplus(self.inner(t, z))
            dz: Tensor = self.outer(t, torch.tanh(self.middle(t, hidden)))
            trace = torch.zeros_like(z[:, 0])
            for channel in range(z.shape[1]):
                (row,) = torch.autograd.grad(dz[:, channel].sum(), z, create_graph=True)
                trace = trace + row[:, channel]
        return dz, -trace


class VanDerPol(nn.Module):
    """Van der Pol's oscillator, stiff for a large μ, which is its parameter."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Map (x, dx/dt), shape ``(..., 2)``, to its derivative."""
        x, v = y.unbind(dim=-1)
        return torch.stack([v, self.mu * (1 - x**2) * v - x], dim=-1)


class Robertson(nn.Module):
    r"""Robertson's three reactions, whose rates lie nine orders of magnitude apart.

    H. H. Robertson, "The solution of a set of reaction rate equations", 1966. Its parameters
    are the rates' logarithms.
    """

    def __init__(self) -> None:
        super().__init__()
        rates = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)
        self.log_rates = nn.Parameter(rates.log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Map concentrations, shape ``(..., 3)``, to their derivative."""
        slow, fastest, fast = self.log_rates.exp().unbind()
        a, b, c = y.unbind(dim=-1)
        first, second, third = slow * a, fastest * b**2, fast * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)


class Convolutional(nn.Module):
    """Two convolutions with the time as a channel and a group norm between them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Map images, shape ``(..., channels, height, width)``, to their derivative."""
        time = t.expand(y.shape[0], 1, *y.shape[2:])
        hidden = nn.functional.silu(self.norm(self.into(torch.cat([y, time], dim=1))))
        slope: Tensor = self.out(hidden)
        return slope


class Attentive(nn.Module):
    """One attention block over a set of particles."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.projections = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Map particles, shape ``(batch, particles, channels)``, to their derivative."""
        batch, particles, channels = y.shape
        shape = (batch, particles, 3, self.heads, channels // self.heads)
        query, key, value = self.projections(self.norm(y)).view(shape).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        heard: Tensor = self.out(attended.transpose(1, 2).reshape(y.shape))
        return heard - 0.1 * y


class MessagePassing(nn.Module):
    """Nodes of a graph that hear from their neighbours."""

    source: Tensor
    target: Tensor

    def __init__(self, edges: Tensor, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("source", edges[0])
        self.register_buffer("target", edges[1])
        self.message = nn.Sequential(
            nn.Linear(2 * channels, width), nn.Tanh(), nn.Linear(width, channels)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Map nodes, shape ``(nodes, channels)``, to their derivative."""
        pairs = torch.cat([y[self.source], y[self.target]], dim=-1)
        return torch.zeros_like(y).index_add(0, self.target, self.message(pairs)) - y


def _spiral(generator: torch.Generator) -> Case:
    func = _drawn(Spiral(), generator, gain=0.3)
    return Case(func, _normal(generator, 20, 2), _times(0.0, 0.7, 1.3, 2.0), weighted_loss)


def _hamiltonian(generator: torch.Generator) -> Case:
    func = _drawn(Hamiltonian(positions=2, width=16), generator, gain=1.0)
    return Case(func, _normal(generator, 6, 4), _times(0.0, 1.0, 2.5, 3.0), weighted_loss)


def _cnf(generator: torch.Generator) -> Case:
    func = _drawn(NormalisingFlow(channels=2, width=16), generator, gain=1.0)
    y0 = (_normal(generator, 8, 2), torch.zeros(8, dtype=torch.float64))
    # Backward in time, as a flow is trained: from the data to the base distribution.
    return Case(func, y0, _times(1.0, 0.4, 0.0), weighted_loss)


def _van_der_pol(generator: torch.Generator) -> Case:
    func = VanDerPol(mu=5.0).double()
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64) + 0.1 * _normal(generator, 4, 2)
    # Backward in time its trajectories part like exp(15 t): the adjoint needs the state anew
    # at short intervals.
    return Case(func, y0, torch.linspace(0.0, 1.6, 9, dtype=torch.float64), weighted_loss)


def _robertson(generator: torch.Generator) -> Case:
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    spread = torch.tensor([0.1, 0.0, 0.1], dtype=torch.float64)
    y0 = start + spread * torch.rand(2, 3, generator=generator, dtype=torch.float64)
    # The second one stays that small, and the first one's decay hangs on it.
    sizes = torch.tensor([1.0, 1e-4, 1.0], dtype=torch.float64)
    t = _times(0.0, 0.4, 4.0, 40.0)
    return Case(Robertson(), y0, t, weighted_loss, stiff=True, sizes=sizes)


def _convolution(generator: torch.Generator) -> Case:
    func = _drawn(Convolutional(channels=2, width=4), generator, gain=0.5)
    return Case(func, _normal(generator, 2, 2, 5, 5), _times(0.0, 0.5, 1.0), weighted_loss)


def _attention(generator: torch.Generator) -> Case:
    func = _drawn(Attentive(channels=4, heads=2), generator, gain=1.0)
    return Case(func, _normal(generator, 2, 5, 4), _times(0.0, 0.6, 1.0), weighted_loss)


def _graph(generator: torch.Generator) -> Case:
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4, 5], [1, 2, 3, 4, 5, 0, 3, 5, 1, 1]])
    func = _drawn(MessagePassing(edges, channels=3, width=8), generator, gain=1.0)
    return Case(func, _normal(generator, 6, 3), _times(0.0, 0.7, 1.5), weighted_loss)


def _cde_cubic(generator: torch.Generator) -> Case:
    return _cde(generator, "natural_cubic_coeffs", "CubicSpline")


def _cde_linear(generator: torch.Generator) -> Case:
    case = _cde(generator, "linear_interpolation_coeffs", "LinearInterpolation")
    return replace(case, has_time_gradient=False)


def _cde(generator: torch.Generator, coefficients: str, interpolation: str) -> Case:
    try:
        import torchcde
    except ImportError as error:
        raise MissingExtraError(
            "the models 'cde' and 'cde-linear' need torchcde; pip install 'pysemi[experiments]'"
        ) from error
    # Eighths are the same number in float32, where a jump must not be off by a rounding.
    times = torch.arange(9, dtype=torch.float64) / 8
    path = _normal(generator, 5, len(times), 2).cumsum(dim=1) / 3
    series = torch.cat([times.expand(5, -1).unsqueeze(-1), path], dim=-1)
    control = getattr(torchcde, interpolation)(
        getattr(torchcde, coefficients)(series, times), times
    )
    matrix_field = MatrixField(3, 6, width=12, depth=2, activation="silu")
    func = ControlledField(_drawn(matrix_field, generator, gain=1.0), control)
    # Where a derivative of the control jumps. (A cubic spline's third does: without these
    # times the solvers would meet kinks, near which a rounding error decides which steps
    # are rejected.)
    options = {"jump_t": times}
    y0 = _normal(generator, 5, 6)
    return Case(func, y0, _times(0.0, 0.35, 0.75, 1.0), weighted_loss, options)


def _drawn(module: nn.Module, generator: torch.Generator, gain: float) -> nn.Module:
    """``module`` in float64, its weights drawn anew from ``generator``."""
    module = module.double()
    for parameter in module.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
        std = gain * fan_in**-0.5 if parameter.ndim > 1 else 0.1 * gain
        nn.init.normal_(parameter, std=std, generator=generator)
    return module


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MODELS: dict[str, Callable[[torch.Generator], Case]] = {
    "spiral": _spiral,
    "cde": _cde_cubic,
    "cde-linear": _cde_linear,
    "hamiltonian": _hamiltonian,
    "cnf": _cnf,
    "van-der-pol": _van_der_pol,
    "convolution": _convolution,
    "attention": _attention,
    "graph": _graph,
}
"""The models by name, each a function of a seeded generator."""

STIFF_MODELS: dict[str, Callable[[torch.Generator], Case]] = {"robertson": _robertson}
"""Those that torchdiffeq cannot solve."""
