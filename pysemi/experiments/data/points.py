"""Points in the plane from distributions that flows are shown on.

Their shapes are those of FFJORD's toy experiments (Grathwohl et al., ICLR 2019);
all lie within about 4 of the origin. Each comes from its own formula and a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from pysemi.errors import ArgumentError, describe

__all__ = ["DISTRIBUTIONS", "PointSet", "sample_points"]


@dataclass(frozen=True)
class PointSet:
    """A density estimation problem in the plane.

    Attributes
    ----------
    train, test : Tensor
        Shape ``(points, 2)``, float32.
    split : str
        How training and test set were had, in words.
    """

    train: Tensor
    test: Tensor
    split: str


def moons(count: int, generator: Generator) -> Tensor:
    """Two half circles that reach into each other, with normal noise around them."""
    angle = math.pi * torch.rand(count, generator=generator)
    lower = torch.randint(2, (count,), generator=generator).bool()
    x = torch.where(lower, 1 - angle.cos(), angle.cos())
    y = torch.where(lower, 0.5 - angle.sin(), angle.sin())
    noise = 0.1 * torch.randn(count, 2, generator=generator)
    return 2 * (torch.stack([x, y], dim=1) + noise) - torch.tensor([1.0, 0.5])


def pinwheel(count: int, generator: Generator) -> Tensor:
    """Five normal clouds, drawn out from the centre and twisted the more the farther out.

    After Johnson et al., "Composing graphical models with neural networks", NeurIPS 2016.
    """
    blade = torch.randint(5, (count,), generator=generator)
    along, across = torch.randn(2, count, generator=generator)
    x, y = 1 + 0.3 * along, 0.1 * across
    angle = 2 * math.pi / 5 * blade + 0.25 * x.exp()
    sin, cos = angle.sin(), angle.cos()
    return 2 * torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)


def checkerboard(count: int, generator: Generator) -> Tensor:
    """Uniform on the eight dark squares of a board of four by four: entropy log 32 nats."""
    column = torch.randint(4, (count,), generator=generator)
    row = 2 * torch.randint(2, (count,), generator=generator) + column % 2
    corner = torch.stack([column, row], dim=1) - 2.0
    return 2 * (corner + torch.rand(count, 2, generator=generator))


def gaussians(count: int, generator: Generator) -> Tensor:
    """Eight normal clouds on a circle."""
    angle = math.pi / 4 * torch.randint(8, (count,), generator=generator)
    centre = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    noise = 0.5 * torch.randn(count, 2, generator=generator)
    return (centre + noise) / math.sqrt(2)


DISTRIBUTIONS: Mapping[str, Callable[[int, Generator], Tensor]] = MappingProxyType(
    {"moons": moons, "pinwheel": pinwheel, "checkerboard": checkerboard, "gaussians": gaussians}
)
"""By name: from a count and a generator to points, shape ``(count, 2)``."""

_TRAIN_SEED, _TEST_SEED = 1, 2


def sample_points(name: str, train: int, test: int) -> PointSet:
    """Draw a training and a test set, the same ones each time.

    Raises
    ------
    ArgumentError
        If no distribution has this name.
    """
    try:
        draw = DISTRIBUTIONS[name]
    except KeyError:
        raise ArgumentError(
            "distribution", f"{describe(name)} is not one of {', '.join(DISTRIBUTIONS)}"
        ) from None
    return PointSet(
        draw(train, torch.Generator().manual_seed(_TRAIN_SEED)),
        draw(test, torch.Generator().manual_seed(_TEST_SEED)),
        split=f"{train:,} and {test:,} points drawn independently",
    )
