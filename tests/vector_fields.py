"""Vector fields that several tests solve."""

from __future__ import annotations

import torch
from torch import nn


class Spiral(nn.Module):
    """torchdiffeq's demo: a perceptron on y³, time entering too."""

    def __init__(self, width: int = 16, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2)).to(dtype)
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, t, y):
        return self.net(y**3) + 0.1 * torch.sin(t)


class Flow(nn.Module):
    """A tuple state: a point and the integral of a divergence that nothing depends on."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=dtype))

    def forward(self, t, state):
        z, _ = state
        h = torch.tanh(z @ self.weight)
        return h, -(1 - h**2).sum(dim=-1)


class Decay(nn.Module):
    """y' = -rate y."""

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
