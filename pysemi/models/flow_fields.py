r"""Vector fields of continuous normalising flows, and what makes a flow of one.

The two networks are those of FFJORD (Grathwohl, Chen, Bettencourt, Sutskever &
Duvenaud, ICLR 2019), which the seminorm paper's section 3.2 builds on.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pysemi.errors import ArgumentError

__all__ = ["ConcatConv", "ConcatSquash", "FlowField", "ImageField", "PointField"]


class ConcatConv(nn.Module):
    """A 3x3 convolution that sees the time as one more channel; the image's size stays.

    Parameters
    ----------
    inputs, outputs : int
        Channels, the time not counted.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs + 1, outputs, kernel_size=3, padding=1)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Map ``(batch, inputs, H, W)`` to ``(batch, outputs, H, W)``."""
        time = t.to(z).expand(len(z), 1, *z.shape[2:])
        mixed: Tensor = self.convolution(torch.cat([time, z], dim=1))
        return mixed


class ConcatSquash(nn.Module):
    r"""A linear layer whose output the time scales and shifts.

    .. math:: \ell(z)\, \sigma(a t + b) + c t

    Parameters
    ----------
    inputs, outputs : int
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.scale = nn.Linear(1, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Map ``(batch, inputs)`` to ``(batch, outputs)``."""
        time = t.to(z).reshape(1, 1)
        mixed: Tensor = self.linear(z) * torch.sigmoid(self.scale(time)) + self.shift(time)
        return mixed


class ImageField(nn.Module):
    """FFJORD's network for images: 3x3 convolutions of stride 1 with softplus between.

    Parameters
    ----------
    channels : int
        Of the state.
    hidden : int
        Channels between the convolutions: the paper's d_h.
    convolutions : int
        At least 2; the paper's parameter counts need 4.

    Examples
    --------
    >>> ImageField(1, 8)(torch.tensor(0.5), torch.zeros(5, 1, 4, 4)).shape
    torch.Size([5, 1, 4, 4])
    """

    def __init__(self, channels: int, hidden: int, *, convolutions: int = 4) -> None:
        super().__init__()
        if convolutions < 2:
            raise ArgumentError("convolutions", f"{convolutions}; give at least 2")
        widths = [channels, *[hidden] * (convolutions - 1), channels]
        self.layers = nn.ModuleList(ConcatConv(*widths) for widths in pairwise(widths))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return dz/dt, shape ``(batch, channels, H, W)``."""
        first, *others = self.layers
        z = first(t, z)
        for layer in others:
            z = layer(t, softplus(z))
        return z


class PointField(nn.Module):
    """FFJORD's network for points: concatsquash layers with tanh between.

    Parameters
    ----------
    dimension : int
    hidden : int
        Units of each hidden layer.
    depth : int
        Number of hidden layers, at least 1; FFJORD has 3.

    Examples
    --------
    >>> PointField(2, 8)(torch.tensor(0.5), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, dimension: int, hidden: int, *, depth: int = 3) -> None:
        super().__init__()
        if depth < 1:
            raise ArgumentError("depth", f"{depth}; give at least one hidden layer")
        widths = [dimension, *[hidden] * depth, dimension]
        self.layers = nn.ModuleList(ConcatSquash(*widths) for widths in pairwise(widths))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return dz/dt, shape ``(batch, dimension)``."""
        first, *others = self.layers
        z = first(t, z)
        for layer in others:
            z = layer(t, torch.tanh(z))
        return z


class FlowField(nn.Module):
    r"""A vector field f with the log-density that its flow carries along.

    .. math::
        \frac{dz}{dt} = f(t, z), \quad
        \frac{d \log p}{dt} = -\operatorname{tr} \frac{\partial f}{\partial z}(t, z)

    (Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018.) With noise v the
    trace is Hutchinson's estimate :math:`v^\top \frac{\partial f}{\partial z} v`, without it
    the exact one, by as many pullbacks as z has channels.

    The noise belongs to one solve: it is an attribute of an object that is made for that
    solve, so the backward solve finds the noise of its own forward solve, whatever was solved
    since. It must not change in between, or the gradient would be that of another function.

    Parameters
    ----------
    field : nn.Module
        f: ``(t, z)`` to dz/dt, for each row of z by itself.
    noise : Tensor or None
        v, in the shape of z; zero mean and unit covariance.
    """

    def __init__(self, field: nn.Module, noise: Tensor | None = None) -> None:
        super().__init__()
        self.field = field
        self.noise = noise

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (dz/dt, d log p/dt), of the shapes of z and ``(batch,)``."""
        z, _ = state
        # The divergence is a derivative whatever the caller wants: a solve runs without gradients.
        with torch.enable_grad():
            # A node of its own: of a view that was made without gradients, as a solver's parts
            # of its state are, torch does not find the way back.
            z = z.clone() if z.requires_grad else z.detach().requires_grad_()
            slope = self.field(t, z)
            if self.noise is None:
                divergence = _trace(slope, z)
            else:
                (pulled,) = torch.autograd.grad(slope, z, self.noise, create_graph=True)
                divergence = (pulled * self.noise).flatten(1).sum(dim=1)
        return slope, -divergence


def _trace(slope: Tensor, z: Tensor) -> Tensor:
    # Rows do not mix, so the sum over them pulls every row's derivative back at once.
    columns = slope.flatten(1).unbind(dim=1)
    diagonal = [
        torch.autograd.grad(column.sum(), z, create_graph=True)[0].flatten(1)[:, i]
        for i, column in enumerate(columns)
    ]
    return torch.stack(diagonal, dim=1).sum(dim=1)
