"""Vector fields that the compiler has to translate, as (name, field, state, ...)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchcde
from torch import Tensor, nn

from pysemi.models.neural_cde import ControlledField, MatrixField

__all__ = ["MODELS", "Model", "build"]


@dataclass
class Model:
    """A vector field and a state for it."""

    field: Callable[[Tensor, Any], Any]
    y: Any
    params: tuple[Tensor, ...]

    @classmethod
    def of(cls, field: nn.Module, y: Any) -> Model:
        return cls(field, y, tuple(field.parameters()))


class Hamiltonian(nn.Module):
    """(q, p)' = (∂H/∂p, -∂H/∂q), by autograd inside the forward."""

    def __init__(self, degrees: int = 2, width: int = 16) -> None:
        super().__init__()
        self.degrees = degrees
        self.energy = nn.Sequential(
            nn.Linear(2 * degrees, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Softplus(),
            nn.Linear(width, 1),
        )

    def forward(self, t, x):
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_leaf else x
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        dq, dp = slope.split(self.degrees, dim=-1)
        return torch.cat([dp, -dq], dim=-1)


class ConcatSquash(nn.Module):
    """FFJORD's layer: time scales and shifts a linear map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)

    def forward(self, t, x):
        time = t.reshape(1, 1)
        return self.layer(x) * torch.sigmoid(self.gate(time)) + self.shift(time)


class Flow(nn.Module):
    """A continuous normalising flow: (z, log-density), with exact or Hutchinson trace."""

    def __init__(self, channels: int = 2, width: int = 8, noise: Tensor | None = None) -> None:
        super().__init__()
        self.first = ConcatSquash(channels, width)
        self.second = ConcatSquash(width, channels)
        self.noise = noise

    def forward(self, t, state):
        z, _ = state
        with torch.enable_grad():
            z = z.requires_grad_(True)
            dz = self.second(t, torch.tanh(self.first(t, z)))
            if self.noise is None:
                trace = sum(
                    torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i]
                    for i in range(z.shape[1])
                )
            else:
                (pulled,) = torch.autograd.grad(dz, z, self.noise, create_graph=True)
                trace = (pulled * self.noise).sum(dim=1)
        return dz, -trace


class SymplecticODENet(nn.Module):
    """Zhong, Dey & Chakraborty (ICLR 2020) with angles as (cos, sin): x = (c, s, q', u)."""

    def __init__(self, degrees: int = 1, width: int = 16) -> None:
        super().__init__()
        self.degrees = degrees

        def network(outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(2 * degrees, width),
                nn.Tanh(),
                nn.Linear(width, width),
                nn.Tanh(),
                nn.Linear(width, outputs, bias=False),
            )

        self.factor = network(degrees * (degrees + 1) // 2)
        self.potential = network(1)
        self.input = network(degrees * degrees)

    def inverse_mass(self, angles):
        lower = torch.zeros(len(angles), self.degrees, self.degrees, dtype=angles.dtype)
        i, j = torch.tril_indices(self.degrees, self.degrees)
        lower[:, i, j] = self.factor(angles)
        return lower @ lower.transpose(1, 2) + 0.1 * torch.eye(self.degrees, dtype=angles.dtype)

    def forward(self, t, x):
        n = self.degrees
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_leaf else x
            cos, sin, velocity, force = torch.split(x, [n, n, n, n], dim=1)
            angles = torch.cat([cos, sin], dim=1)
            inverse = self.inverse_mass(angles)
            momentum = torch.linalg.solve(inverse, velocity.unsqueeze(2)).squeeze(2)
            kinetic = (momentum.unsqueeze(1) @ inverse @ momentum.unsqueeze(2)).squeeze((1, 2)) / 2
            energy = (kinetic + self.potential(angles).squeeze(1)).sum()
            by_cos, by_sin, by_momentum = torch.autograd.grad(
                energy, [cos, sin, momentum], create_graph=True
            )
            pushed = (self.input(angles).view(-1, n, n) @ force.unsqueeze(2)).squeeze(2)
            dq = by_momentum
            dp = sin * by_cos - cos * by_sin + pushed
            rate = torch.stack(
                [
                    sum(
                        (torch.autograd.grad(entry.sum(), source, create_graph=True)[0] * v).sum(1)
                        for source, v in ((cos, -sin * dq), (sin, cos * dq))
                    )
                    for entry in inverse.flatten(1).unbind(1)
                ],
                dim=1,
            ).view(-1, n, n)
            acceleration = (rate @ momentum.unsqueeze(2) + inverse @ dp.unsqueeze(2)).squeeze(2)
        return torch.cat([-sin * dq, cos * dq, acceleration, torch.zeros_like(force)], dim=1)


def _perceptron(activation: nn.Module) -> Model:
    net = nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3))

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t, y):
            return self.net(y) * torch.sin(t)

    return Model.of(Perceptron(), torch.randn(4, 3))


class Written(nn.Module):
    """A forward in a few lines of its own, with one linear layer."""

    def __init__(self, body: Callable[..., Tensor], inputs: int = 2, outputs: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.body = body

    def forward(self, t, y):
        return self.body(self.layer, t, y)


def _assigned(layer, t, y):
    out = torch.zeros_like(y)
    out[:, 0] = layer(y)[:, 1]
    out[1:, 1] += y[1:, 0]
    return out


def _spread(y):
    """Two matrices (3, 3) with a large diagonal."""
    return 3 * torch.eye(3).to(y) + torch.stack([y @ y.mT, y.sin() @ y.flip(0).mT])


PICKS = torch.tensor([[1, 0], [0, 0], [1, 1]])

WRITTEN: dict[str, Callable[..., Tensor]] = {
    "assignment": _assigned,
    "einsum": lambda layer, t, y: torch.einsum("bi,ij->bj", y, layer.weight).tanh(),
    "gather": lambda layer, t, y: torch.gather(layer(y), 1, PICKS),
    "scatter": lambda layer, t, y: torch.zeros_like(y).scatter_add(1, PICKS, layer(y)),
    "rolled": lambda layer, t, y: torch.roll(torch.flip(layer(y), [0]), 1, 0),
    "embedding": lambda layer, t, y: y * layer.weight[torch.tensor([0, 1, 1])],
    "norm": lambda layer, t, y: -layer(y) / (1 + y.norm(dim=-1, keepdim=True)),
    "largest": lambda layer, t, y: -layer(y) * y.max(),
    "vmap": lambda layer, t, y: torch.vmap(lambda v: torch.tanh(layer(v)))(y),
    "inner-grad": lambda layer, t, y: torch.func.grad(lambda z: layer(z).tanh().sum())(y),
    "inverse": lambda layer, t, y: y @ torch.linalg.inv(3 * torch.eye(2).to(y) + layer.weight),
    "only-time": lambda layer, t, y: torch.sin(t) * torch.ones_like(y) * layer.weight.sum(),
    "identity": lambda layer, t, y: y,
    "sorted": lambda layer, t, y: layer(y).sort(0).values * y.topk(1).values,
    "extrema": lambda layer, t, y: layer(y).max(1).values[:, None] * y.cumsum(0) - y.argmin(0),
    "product": lambda layer, t, y: layer(y) / (2 + y.prod(1, keepdim=True).cos()),
    "distances": lambda layer, t, y: torch.cdist(y, layer(y)).exp().reciprocal() @ y,
    "determinant": lambda layer, t, y: (
        y * torch.linalg.det(_spread(y)).sum()
        + layer(y) * torch.linalg.slogdet(_spread(y).mT)[1][0]
    ),
    "cholesky": lambda layer, t, y: torch.cholesky_solve(
        layer(y), torch.linalg.cholesky(_spread(y)[0].mT @ _spread(y)[0])
    ),
    "triangular": lambda layer, t, y: torch.linalg.solve_triangular(
        _spread(y), layer(y).expand(2, 3, 2), upper=False
    ).sum(0),
    "sums-of-nothing": lambda layer, t, y: (
        layer(y)
        + y[:, :0] @ y[:, :0].mT @ y
        + (y[:0].mT @ y[:0]).sum(0)
        + (y[:, :0] @ y[0, :0])[:, None]
        + torch.dot(y[0, :0], y[1, :0])
    ),
    "exponential": lambda layer, t, y: layer(y) @ torch.linalg.matrix_exp(y.mT @ y.cos() * t),
    "factored": lambda layer, t, y: torch.linalg.qr(_spread(y))[1].sum(0)[:, :2] * layer(y),
    "running": lambda layer, t, y: layer(y).cummax(0).values + y.logcumsumexp(0),
    "neighbours": lambda layer, t, y: torch.zeros_like(y).scatter_reduce(
        0, PICKS, layer(y), "amax", include_self=False
    ),
    "gamma": lambda layer, t, y: torch.lgamma(layer(y)) + torch.erfinv(torch.tanh(y)),
    "masked": lambda layer, t, y: torch.where(y > 0, layer(y), torch.floor(y * 3) % 2),
    "fourier": lambda layer, t, y: layer(
        torch.cat([torch.sin(k * t) * torch.ones_like(y[:, :1]) for k in (1, 2)], dim=-1)
    ),
}


class Attention(nn.Module):
    """Self-attention over the second dimension, with residual weights."""

    def __init__(self, channels: int = 8, heads: int = 2, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.inputs = nn.Linear(channels, 3 * channels)
        self.outputs = nn.Linear(channels, channels)

    def forward(self, t, y):
        parts = self.inputs(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=self.causal)
        return self.outputs(mixed.transpose(1, 2).flatten(2))


class Layers(nn.Module):
    """Layers in a row; a field if they keep the shape."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, t, y):
        return self.layers(y)


def _pooled() -> nn.Module:
    upsampling = nn.Upsample(scale_factor=2, mode="bilinear")
    return Layers(nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2), upsampling, nn.Conv2d(4, 2, 1))


def _averaged() -> nn.Module:
    return Layers(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="replicate"),
        nn.AvgPool2d(2),
        nn.GELU(),
        nn.Upsample(scale_factor=2),
        nn.BatchNorm2d(4).eval(),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
        nn.InstanceNorm2d(2),
    )


def _orthogonal() -> nn.Module:
    # The square one is made by an exponential, the others by reflections.
    orthogonal = nn.utils.parametrizations.orthogonal
    widths = ((3, 3), (3, 5), (5, 3))
    return Layers(*(orthogonal(nn.Linear(*sizes)) for sizes in widths), nn.Tanh())


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv-1d": (
        lambda: Layers(
            nn.Conv1d(3, 6, 5, padding=4, dilation=2, groups=3), nn.Tanh(), nn.Conv1d(6, 3, 1)
        ),
        (2, 3, 9),
    ),
    "conv-2d": (
        lambda: Layers(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1)
        ),
        (3, 2, 5, 6),
    ),
    "conv-strided": (
        lambda: Layers(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.Softplus(),
            nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=(0, 1)),
        ),
        (2, 2, 5, 6),
    ),
    "conv-3d": (
        lambda: Layers(
            nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1, groups=2),
            nn.Tanh(),
            nn.ConvTranspose3d(4, 2, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 1)),
        ),
        (2, 2, 4, 4, 3),
    ),
    "conv-depthwise": (
        lambda: Layers(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.SiLU(), nn.Conv2d(4, 4, 1)),
        (1, 4, 5, 5),
    ),
    "pooled": (_pooled, (2, 2, 6, 4)),
    "averaged": (_averaged, (2, 2, 6, 4)),
    "weight-norm": (
        lambda: Layers(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Tanh()),
        (4, 3),
    ),
    "orthogonal": (_orthogonal, (4, 3)),
    "pooled-adaptively": (
        lambda: Layers(
            nn.AdaptiveMaxPool2d((3, 5)), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d((7, 4))
        ),
        (2, 2, 7, 4),
    ),
    "attention": (Attention, (2, 5, 8)),
    "attention-causal": (lambda: Attention(causal=True), (2, 5, 8)),
    "transformer": (
        lambda: Layers(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)),
        (2, 5, 8),
    ),
}
"""Name -> the field, and the shape of its state."""


def _controlled(interpolation: type, coefficients: Callable[[Tensor, Tensor], Tensor]) -> Model:
    times = torch.linspace(0, 1, 6)
    control = interpolation(coefficients(torch.rand(4, 6, 3), times), times)
    field = ControlledField(MatrixField(3, 5, width=8, depth=2, activation="silu"), control)
    return Model.of(field, torch.randn(4, 5))


MODELS: dict[str, Callable[[], Model]] = {
    **{
        f"perceptron-{name}": lambda activation=activation: _perceptron(activation())
        for name, activation in {
            "tanh": nn.Tanh,
            "relu": nn.ReLU,
            "sigmoid": nn.Sigmoid,
            "softplus": nn.Softplus,
            "silu": nn.SiLU,
            "gelu": nn.GELU,
            "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
            "elu": nn.ELU,
            "selu": nn.SELU,
            "celu": nn.CELU,
            "leaky-relu": nn.LeakyReLU,
            "prelu": nn.PReLU,
            "mish": nn.Mish,
            "hardtanh": nn.Hardtanh,
            "hardswish": nn.Hardswish,
            "hardsigmoid": nn.Hardsigmoid,
            "logsigmoid": nn.LogSigmoid,
            "softsign": nn.Softsign,
            "tanhshrink": nn.Tanhshrink,
            "relu6": nn.ReLU6,
            "softmax": lambda: nn.Softmax(dim=-1),
            "layer-norm": lambda: nn.LayerNorm(8),
            "group-norm": lambda: nn.GroupNorm(2, 8),
            "glu-like": lambda: nn.Sequential(nn.Linear(8, 16), nn.GLU()),
        }.items()
    },
    **{
        name: lambda body=body: Model.of(Written(body), torch.randn(3, 2))
        for name, body in WRITTEN.items()
    },
    **{
        name: lambda make=make, shape=shape: Model.of(make(), torch.randn(shape))
        for name, (make, shape) in LAYERS.items()
    },
    "hamiltonian": lambda: Model.of(Hamiltonian(), torch.randn(4, 4)),
    "flow-exact": lambda: Model.of(Flow(), (torch.randn(5, 2), torch.zeros(5))),
    "flow-hutchinson": lambda: Model.of(
        Flow(noise=torch.randn(5, 2)), (torch.randn(5, 2), torch.zeros(5))
    ),
    "symplectic-1": lambda: Model.of(SymplecticODENet(1), torch.randn(3, 4)),
    "symplectic-2": lambda: Model.of(SymplecticODENet(2), torch.randn(3, 8)),
    "cde-linear": lambda: _controlled(
        torchcde.LinearInterpolation, torchcde.linear_interpolation_coeffs
    ),
    "cde-cubic": lambda: _controlled(
        torchcde.CubicSpline, torchcde.hermite_cubic_coefficients_with_backward_differences
    ),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> Model:
    """Build a model in ``dtype``, always the same one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MODELS[name]()
    finally:
        torch.set_default_dtype(before)
