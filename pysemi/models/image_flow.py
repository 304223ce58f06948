r"""Continuous normalising flows of images at several resolutions.

The seminorm paper's section 3.2 trains these; its public code does not. What is
known of them is that they are FFJORD's, with a convolutional vector field of
d_h hidden channels, and how many parameters they have (Table 2). **The
architecture here is an inference from these counts**: 12 flows, four at each of
three resolutions (channels C, 4 C, 16 C), no channel factored out, each with a
vector field of its own of four 3x3 convolutions, and time as one more input
channel of every convolution, has exactly

===========================  =========
model                        parameters
===========================  =========
MNIST, d_h = 32                281,928
MNIST, d_h = 64              1,005,384
MNIST, d_h = 128             3,779,400
CIFAR-10, d_h = 64           1,200,600
===========================  =========

which are the paper's four. A learnt end time for each flow, as in FFJORD's
public code, would be 12 more. The order of flows and squeezes is not in the
count; that there are no other layers between them is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pysemi.errors import ArgumentError
from pysemi.models.continuous_flow import ContinuousFlow, normal_log_prob
from pysemi.models.flow_fields import ImageField

__all__ = ["ImageFlow", "dequantise", "from_logits", "quantise", "to_logits"]


def dequantise(images: Tensor, levels: int) -> Tensor:
    """Spread each whole-numbered value over its bin, by torch's global random state.

    Parameters
    ----------
    images : Tensor
        Of an integer dtype, values 0 to ``levels - 1``.
    levels : int

    Returns
    -------
    Tensor
        float32, in [0, 1].
    """
    return (images.float() + torch.rand(images.shape, device=images.device)) / levels


def quantise(x: Tensor, levels: int) -> Tensor:
    """The whole number whose bin x lies in: the inverse of :func:`dequantise`; int64."""
    return (x * levels).floor().clamp(0, levels - 1).long()


def to_logits(x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    r"""Map [0, 1] to the real line by :math:`\operatorname{logit}(\alpha + (1 - 2\alpha) x)`.

    From Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP" (ICLR 2017);
    alpha keeps 0 and 1 finite.

    Returns
    -------
    y : Tensor
        Of the shape of x.
    gain : Tensor
        The logarithm of the map's determinant for each row, shape ``(batch,)``.
    """
    inner = alpha + (1 - 2 * alpha) * x
    log, log_rest = inner.log(), (1 - inner).log()
    return log - log_rest, (math.log(1 - 2 * alpha) - log - log_rest).flatten(1).sum(dim=1)


def from_logits(y: Tensor, alpha: float) -> Tensor:
    """The inverse of :func:`to_logits`; outside [0, 1] by up to alpha for very large logits."""
    return (torch.sigmoid(y) - alpha) / (1 - 2 * alpha)


class ImageFlow(nn.Module):
    r"""Flows of an image at one resolution after another, as the module describes.

    An image x of whole numbers is dequantised (Theis, van den Oord & Bethge, ICLR 2016), mapped
    to logits, and carried by the flows to a standard normal base. From one resolution to the
    next, blocks of 2x2 pixels become 4 channels: a permutation, whose determinant is 1.

    Parameters
    ----------
    shape : sequence of int
        (channels, height, width) of an image.
    levels : int
        Of a pixel: 256 for 8 bits.
    hidden : int
        Channels between the convolutions: the paper's d_h.
    flows : int
        At each resolution.
    resolutions : int
    squeezes_first : int
        How many times to halve the resolution before the first flow.
    convolutions : int
        In each vector field.
    alpha : float
        Of the logits.
    trace : {"gaussian", "rademacher", "exact"}
        As in :class:`ContinuousFlow`; equation (6) of the paper has Gaussian noise.
    solver : mapping
        Keyword arguments of :func:`pysemi.odeint_adjoint`, for each flow.

    Examples
    --------
    >>> paper = ImageFlow((1, 28, 28), 256, hidden=32)
    >>> sum(p.numel() for p in paper.parameters())
    281928
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int,
        *,
        hidden: int,
        flows: int = 4,
        resolutions: int = 3,
        squeezes_first: int = 0,
        convolutions: int = 4,
        alpha: float = 1e-6,
        trace: str = "gaussian",
        solver: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        coarsest = 2 ** (squeezes_first + resolutions - 1)
        if height % coarsest or width % coarsest:
            raise ArgumentError(
                "resolutions",
                f"an image of {height} x {width} pixels cannot be made {coarsest} times as small",
            )
        if not 0 <= alpha < 0.5:
            raise ArgumentError("alpha", f"{alpha}; give a number in [0, 0.5)")
        self.shape = (channels, height, width)
        self.levels = levels
        self.alpha = alpha
        finest = range(squeezes_first, squeezes_first + resolutions)
        shapes = [(channels * 4**n, height // 2**n, width // 2**n) for n in finest]
        self.flows = nn.ModuleList(
            ContinuousFlow(
                ImageField(shape[0], hidden, convolutions=convolutions),
                shape,
                trace=trace,
                solver=solver,
            )
            for shape in shapes
            for _ in range(flows)
        )

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Carry dequantised images to the base.

        Parameters
        ----------
        x : Tensor
            In [0, 1], shape ``(batch, channels, height, width)``.

        Returns
        -------
        z : Tensor
            Shape ``(batch, channels, height, width)`` of the last resolution.
        gain : Tensor
            log p(x) - log p_0(z), shape ``(batch,)``.
        """
        z, gain = to_logits(x, self.alpha)
        for flow in self._flows():
            z, more = flow.to_base(_resized(z, flow.shape[-1]))
            gain = gain + more
        return z, gain

    def from_base(self, z: Tensor) -> Tensor:
        """The inverse of :meth:`to_base`: images, within alpha of [0, 1]."""
        for flow in reversed(self._flows()):
            z, _ = flow.from_base(_resized(z, flow.shape[-1]))
        return from_logits(_resized(z, self.shape[-1]), self.alpha)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each dequantised image, or an unbiased estimate; shape ``(batch,)``."""
        z, gain = self.to_base(x)
        return normal_log_prob(z) + gain

    def bits_per_dim(self, images: Tensor) -> Tensor:
        r"""A bound from above on the bits that each image takes, by number of its values.

        Dequantised images have a density on [0, 1]; a bin's volume is ``levels**-d``, so

        .. math:: -(\log p(x) / d - \log(\text{levels})) / \log 2

        Parameters
        ----------
        images : Tensor
            Of an integer dtype, shape ``(batch, channels, height, width)``.

        Returns
        -------
        Tensor
            Shape ``(batch,)``.
        """
        log_prob = self.log_prob(dequantise(images, self.levels))
        return (math.log(self.levels) - log_prob / math.prod(self.shape)) / math.log(2)

    def forward(self, images: Tensor) -> Tensor:
        """:meth:`bits_per_dim`, as a module's call."""
        return self.bits_per_dim(images)

    def sample(self, count: int) -> Tensor:
        """Draw images in [0, 1] from the model, by torch's global random state."""
        like = next(self.parameters())
        coarsest = self._flows()[-1].shape
        z = torch.randn(count, *coarsest, dtype=like.dtype, device=like.device)
        return self.from_base(z).clamp(0, 1)

    def _flows(self) -> list[ContinuousFlow]:
        return list(cast("Iterable[ContinuousFlow]", self.flows))


def _resized(z: Tensor, width: int) -> Tensor:
    """The same numbers at another resolution, 2x2 pixels being 4 channels at half of it."""
    while z.shape[-1] > width:
        z = pixel_unshuffle(z, 2)
    while z.shape[-1] < width:
        z = pixel_shuffle(z, 2)
    return z
