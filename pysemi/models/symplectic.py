r"""Symplectic ODE-Net: Hamiltonian dynamics with control, of a system with angles.

Zhong, Dey & Chakraborty, "Symplectic ODE-Net: Learning Hamiltonian Dynamics with
Control", ICLR 2020; used in section 3.3 of the seminorm paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from pysemi.errors import ArgumentError

__all__ = ["InverseMass", "Perceptron", "SymplecticODENet"]

LEAST_EIGENVALUE = 0.1
"""Of the inverse mass matrix, so that it can be inverted; Zhong et al. add as much."""


class Perceptron(nn.Module):
    """A perceptron with softplus between its layers, and its derivatives along directions.

    Derivatives are carried forward beside the values: two angles need two
    directions, which cost less than autograd's way back for each entry of a matrix,
    and what is left for the adjoint to differentiate is of first order.

    Parameters
    ----------
    inputs, width, outputs : int
    hidden : int
        Number of hidden layers.

    Examples
    --------
    >>> value, slopes = Perceptron(4, 16, 1).along(torch.zeros(5, 4), torch.ones(5, 2, 4))
    >>> value.shape, slopes.shape
    (torch.Size([5, 1]), torch.Size([5, 2, 1]))
    """

    def __init__(self, inputs: int, width: int, outputs: int, hidden: int = 2) -> None:
        super().__init__()
        sizes = [inputs, *[width] * hidden, outputs]
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(softplus(x))
        return x

    def along(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Values at x, and derivatives there along each direction.

        Parameters
        ----------
        x : Tensor
            Shape ``(..., inputs)``.
        directions : Tensor
            Shape ``(..., directions, inputs)``.

        Returns
        -------
        value, slopes : Tensor
            Shapes ``(..., outputs)`` and ``(..., directions, outputs)``.
        """
        first, *others = self.layers
        x, slopes = first(x), linear(directions, _weight(first))
        for layer in others:
            slopes = linear(slopes * torch.sigmoid(x).unsqueeze(-2), _weight(layer))
            x = layer(softplus(x))
        return x, slopes


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight


class InverseMass(nn.Module):
    r"""The inverse of a mass matrix, :math:`L L^\top + 0.1\,I` with lower triangular L.

    Parameters
    ----------
    degrees : int
        Degrees of freedom n.
    width : int
        Of the perceptron that makes L, which has three hidden layers.
    """

    entries: Tensor
    least: Tensor

    def __init__(self, degrees: int, width: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(degrees, degrees)
        self.factor = Perceptron(2 * degrees, width, len(rows), hidden=3)
        # Which entry of L each output is: a product with it, and with its derivative, places them.
        entries = torch.zeros(len(rows), degrees, degrees)
        entries[torch.arange(len(rows)), rows, columns] = 1
        self.register_buffer("entries", entries.flatten(1), persistent=False)
        self.register_buffer("least", LEAST_EIGENVALUE * torch.eye(degrees), persistent=False)

    def forward(self, angles: Tensor) -> Tensor:
        """Map ``(..., 2 n)``, cosines and sines, to matrices ``(..., n, n)``."""
        return self._squared(self._placed(self.factor(angles)))

    def along(self, angles: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix, and its derivatives: shapes ``(..., n, n)``, ``(..., directions, n, n)``."""
        value, slopes = self.factor.along(angles, directions)
        lower = self._placed(value)
        half = self._placed(slopes) @ lower.mT.unsqueeze(-3)
        return self._squared(lower), half + half.mT

    def _squared(self, lower: Tensor) -> Tensor:
        return lower @ lower.mT + self.least

    def _placed(self, outputs: Tensor) -> Tensor:
        placed: Tensor = (outputs @ self.entries).unflatten(-1, self.least.shape)
        return placed


class SymplecticODENet(nn.Module):
    r"""A vector field with the form of Hamilton's equations, of a system with angles.

    .. math::
        H(q, p) = \tfrac12 p^\top M^{-1}(q)\, p + V(q), \quad
        \dot q = \frac{\partial H}{\partial p}, \quad
        \dot p = -\frac{\partial H}{\partial q} + g(q)\, u

    M⁻¹, V and g are perceptrons of (cos q, sin q). The state is what can be observed,
    x = (cos q, sin q, q', u): p is :math:`M(q)\, \dot q` and the forces u are
    constant. H is determined by such data up to a factor, which V, M and g share.

    The default sizes are the paper's, with 509,108 parameters.

    Parameters
    ----------
    degrees : int
        Degrees of freedom n, all of them angles; as many forces act.
    mass_width : int
        Units in each of the three hidden layers of M⁻¹.
    width : int
        Units in each of the two hidden layers of V and of g.

    Examples
    --------
    >>> field = SymplecticODENet(1, mass_width=16, width=16)
    >>> field(torch.tensor(0.0), torch.zeros(5, 4)).shape
    torch.Size([5, 4])
    """

    def __init__(self, degrees: int = 2, *, mass_width: int = 400, width: int = 300) -> None:
        super().__init__()
        for name, value in (("degrees", degrees), ("mass_width", mass_width), ("width", width)):
            if value < 1:
                raise ArgumentError(name, f"{value}; give at least 1")
        self.degrees = degrees
        self.mass_net = InverseMass(degrees, mass_width)
        self.potential_net = Perceptron(2 * degrees, width, 1)
        self.input_net = Perceptron(2 * degrees, width, degrees * degrees)

    def inverse_mass(self, angles: Tensor) -> Tensor:
        """M⁻¹ at ``angles``, (cos q, sin q) of shape ``(..., 2 n)``; shape ``(..., n, n)``."""
        matrix: Tensor = self.mass_net(angles)
        return matrix

    def potential(self, angles: Tensor) -> Tensor:
        """V at ``angles``, (cos q, sin q) of shape ``(..., 2 n)``; shape ``(...)``."""
        values: Tensor = self.potential_net(angles).squeeze(-1)
        return values

    def input_matrix(self, angles: Tensor) -> Tensor:
        """The matrix g at ``angles``, (cos q, sin q) of shape ``(..., 2 n)``; ``(..., n, n)``."""
        entries = self.input_net(angles)
        matrix: Tensor = entries.unflatten(-1, (self.degrees, self.degrees))
        return matrix

    def energy(self, x: Tensor) -> Tensor:
        """H at states x of shape ``(..., 4 n)``; shape ``(...)``."""
        angles, velocity, _ = self._parts(x)
        momentum: Tensor = torch.linalg.solve(self.inverse_mass(angles), velocity)
        return (momentum * velocity).sum(-1) / 2 + self.potential(angles)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return dx/dt, shape ``(..., 4 n)``."""
        del t
        angles, velocity, force = self._parts(x)
        cos, sin = angles.chunk(2, dim=-1)
        # Row k: how (cos q, sin q) changes with the k-th angle.
        turns = torch.cat([torch.diag_embed(-sin), torch.diag_embed(cos)], dim=-1)
        inverse, by_angle = self.mass_net.along(angles, turns)
        momentum = torch.linalg.solve(inverse, velocity)
        # Row k: the derivative of M⁻¹ by the k-th angle, times p.
        bent = _times(by_angle, momentum.unsqueeze(-2))
        potential_slope = self.potential_net.along(angles, turns)[1].squeeze(-1)
        pushed = _times(self.input_matrix(angles), force)
        momentum_rate = pushed - _times(bent, momentum) / 2 - potential_slope
        # q' = M⁻¹ p, so q'' = (M⁻¹)' p + M⁻¹ p'.
        acceleration = _times(bent.mT, velocity) + _times(inverse, momentum_rate)
        return torch.cat(
            [-sin * velocity, cos * velocity, acceleration, torch.zeros_like(force)], dim=-1
        )

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = self.degrees
        angles, velocity, force = x.split([2 * n, n, n], dim=-1)
        return angles, velocity, force


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
