"""The problems' vector fields as PyTorch modules, written as a user would write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from side_by_side.problems import Problem

__all__ = ["field"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "softplus": nn.Softplus}


class _Network(nn.Module):
    """A network on y, or on a power of it."""

    def __init__(self, net: nn.Module, power: int) -> None:
        super().__init__()
        self.net = net
        self.power = power

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(y if self.power == 1 else y**self.power)
        return out


class _Controlled(nn.Module):
    """A network's matrix times the slope of a control."""

    def __init__(self, net: nn.Module, control: Any, channels: int) -> None:
        super().__init__()
        self.net = net
        self.control = control
        self.channels = channels

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        matrix = self.net(z).unflatten(-1, (-1, self.channels))
        slope = self.control.derivative(t)
        out: Tensor = (matrix @ slope.unsqueeze(-1)).squeeze(-1)
        return out


def field(problem: Problem, dtype: torch.dtype) -> nn.Module:
    """The vector field f(t, y), with the problem's weights, in ``dtype``."""
    layers: list[nn.Module] = []
    pairs = zip(problem.parameters[::2], problem.parameters[1::2], strict=True)
    for (weight, bias), activation in zip(pairs, problem.activations, strict=True):
        outputs, inputs = weight.shape[:2]
        layer = (
            nn.Conv2d(inputs, outputs, weight.shape[-1], padding="same")
            if problem.kind == "convolution"
            else nn.Linear(inputs, outputs)
        )
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
        layers.append(layer)
        if activation != "none":
            layers.append(_ACTIVATIONS[activation]())
    net = nn.Sequential(*layers)
    if problem.control is None:
        return _Network(net, problem.power).to(dtype)
    import torchcde  # of the experiments' extra

    # The control's module keeps what it computes from its arguments, so these come in dtype.
    control = torchcde.LinearInterpolation(
        torch.from_numpy(problem.control).to(dtype), torch.from_numpy(problem.knots).to(dtype)
    )
    return _Controlled(net, control, problem.control.shape[-1]).to(dtype)
