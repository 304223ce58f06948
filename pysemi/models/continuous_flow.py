r"""Continuous normalising flows: densities that a neural ODE transports.

Section 3.2 of the seminorm paper; Chen et al., "Neural Ordinary Differential
Equations", NeurIPS 2018; Grathwohl et al., "FFJORD", ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pysemi.api import odeint_adjoint
from pysemi.errors import ArgumentError, describe
from pysemi.models.flow_fields import FlowField

__all__ = ["TRACES", "ContinuousFlow", "normal_log_prob"]

TRACES = ("exact", "gaussian", "rademacher")
"""How the divergence is had: exactly, or by Hutchinson's estimator with this noise."""


def normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of the standard normal distribution for each row, shape ``(batch,)``."""
    return (-0.5 * (z.square() + math.log(2 * math.pi))).flatten(1).sum(dim=1)


class ContinuousFlow(nn.Module):
    r"""The flow of a vector field over t in [0, 1], from a standard normal base to the data.

    As in the paper z(0) is the base's and z(1) the data's, so

    .. math::
        \log p(x) = \log p_0(z(0))
        - \int_0^1 \operatorname{tr} \frac{\partial f}{\partial z}(t, z(t))\, dt

    which a solve from t = 1 to t = 0 finds, and sampling solves from 0 to 1. Either solve has
    the state (z, log-density): with one layout of the state the options of ``solver`` fit both,
    and so does what the bridge has compiled.

    Parameters
    ----------
    field : nn.Module
        ``(t, z)`` to dz/dt, such as :class:`PointField` or :class:`ImageField`.
    shape : sequence of int
        Of one z, without the batch.
    trace : {"exact", "gaussian", "rademacher"}
        The divergence exactly, or by Hutchinson's estimator. Its noise is drawn for each solve,
        by torch's global random state, and held through it and its backward solve.
    solver : mapping
        Keyword arguments of :func:`pysemi.odeint_adjoint`, such as ``rtol``,
        ``atol``, ``backend`` and ``adjoint_options``.

    Examples
    --------
    >>> flow = ContinuousFlow(PointField(2, 16), (2,), solver=dict(rtol=1e-4, atol=1e-4))
    >>> flow.log_prob(torch.zeros(5, 2)).shape  # doctest: +SKIP
    torch.Size([5])
    """

    def __init__(
        self,
        field: nn.Module,
        shape: Sequence[int],
        *,
        trace: str = "exact",
        solver: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if trace not in TRACES:
            raise ArgumentError("trace", f"{describe(trace)} is not one of {', '.join(TRACES)}")
        self.field = field
        self.shape = tuple(shape)
        self.trace = trace
        self.solver = dict(solver or {})

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Follow the data back to the base.

        Parameters
        ----------
        x : Tensor
            z(1), shape ``(batch, *shape)``.

        Returns
        -------
        z : Tensor
            z(0), of the same shape.
        gain : Tensor
            log p(x) - log p_0(z), shape ``(batch,)``.
        """
        z, change = self._solve(x, [1.0, 0.0])
        return z[-1], -change[-1]

    def from_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the base to the data: the inverse of :meth:`to_base`.

        Parameters
        ----------
        z : Tensor
            z(0), shape ``(batch, *shape)``.

        Returns
        -------
        x : Tensor
            z(1), of the same shape.
        gain : Tensor
            log p(x) - log p_0(z), shape ``(batch,)``.
        """
        x, change = self._solve(z, [0.0, 1.0])
        return x[-1], change[-1]

    def path(self, z: Tensor, times: Sequence[float]) -> Tensor:
        """Where the flow has carried z by each of some times.

        Parameters
        ----------
        z : Tensor
            At the first of ``times``, shape ``(batch, *shape)``.
        times : sequence of float
            Rising or falling, within [0, 1].

        Returns
        -------
        Tensor
            Shape ``(len(times), batch, *shape)``.
        """
        return self._solve(z, times)[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each row of x, or an unbiased estimate; shape ``(batch,)``, nats."""
        z, gain = self.to_base(x)
        return normal_log_prob(z) + gain

    def forward(self, x: Tensor) -> Tensor:
        """:meth:`log_prob`, as a module's call."""
        return self.log_prob(x)

    def sample(self, count: int) -> Tensor:
        """Draw from the model, by torch's global random state; shape ``(count, *shape)``."""
        like = next(self.parameters())
        z = torch.randn(count, *self.shape, dtype=like.dtype, device=like.device)
        return self.from_base(z)[0]

    def _solve(self, z: Tensor, times: Sequence[float]) -> tuple[Tensor, Tensor]:
        field = FlowField(self.field, self._noise(z))
        states: tuple[Tensor, Tensor] = odeint_adjoint(
            field, (z, z.new_zeros(len(z))), z.new_tensor(times), **self.solver
        )
        return states

    def _noise(self, z: Tensor) -> Tensor | None:
        if self.trace == "exact":
            return None
        if self.trace == "gaussian":
            return torch.randn_like(z)
        return torch.randint_like(z, 2) * 2 - 1
