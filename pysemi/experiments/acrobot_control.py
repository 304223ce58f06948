r"""Swing the double pendulum up by energy shaping, with whatever model of it is at hand.

A model knows the energy and how forces enter, so forces can be chosen that make the
closed loop another mechanical system (Zhong, Dey & Chakraborty 2020): one with the
same mass matrix, but with potential :math:`V_d` in place of V, and with friction. It
comes to rest where :math:`V_d` is least. With g square,

.. math::
    u = g(q)^{-1} \left( \frac{\partial V}{\partial q} - \frac{\partial V_d}{\partial q}
        - k M(q)\, \dot q \right), \qquad V_d = -V + \text{spring}

Gravity is turned round, as in the paper's code. Three things are not as there:

- Hanging straight down the slope of V is 0, and turned round gravity leaves the
  pendulum in balance. In the paper's code it is a learnt model's error that lets it
  fall upwards, this way or that. Here a weak spring, :math:`-\kappa (q - q^*)` added
  to the torques, says which way.
- Friction is proportional to the momentum M q' rather than to q'. Data determine V, M
  and g up to a common factor only, which then cancels.
- Motors have a limit. An exact model stays at half of it; one that was hardly trained
  would spin the pendulum ever faster.

Torques hold for 0.05 s each, the time between two observations in the training data.
In between moves the simulator, not the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.experiments.data.acrobot import INTERVAL, simulate

__all__ = ["UPRIGHT", "ControlModel", "SwingUp", "swing_up", "torque"]

UPRIGHT = (np.pi, 0.0)
"""Both rods on end: the angles (rad) to reach."""

FRICTION = 3.0
"""k, 1/s. The two ways to swing about upright have 1.9 and 2.8 rad/s; the slower one is then
damped by four fifths of what would be critical, the faster one by half."""

STIFFNESS = 1.5
"""κ, N m/rad. Its pull at hanging down, 4.7 N m, is a fourth of the most that gravity can pull."""

MOST_TORQUE = 30.0
"""What a motor can exert, N m."""

SETTLED_WITHIN = 0.1
"""How far, in rad, an angle may be from upright that counts as there."""


class ControlModel(Protocol):
    """What has to be known of a system: functions of (cos q, sin q), shape ``(..., 2 n)``."""

    def inverse_mass(self, angles: Tensor) -> Tensor:
        """M⁻¹, shape ``(..., n, n)``."""

    def potential(self, angles: Tensor) -> Tensor:
        """V, shape ``(...)``."""

    def input_matrix(self, angles: Tensor) -> Tensor:
        """g, shape ``(..., n, n)``."""


@dataclass(frozen=True)
class SwingUp:
    """The pendulum's motion under control.

    Attributes
    ----------
    t : array
        Shape ``(times,)``, s.
    q, velocity : array
        Shape ``(times, 2)``, rad and rad/s.
    torque : array
        Shape ``(times, 2)``, N m: what is exerted from that time on.
    """

    t: NDArray[np.float64]
    q: NDArray[np.float64]
    velocity: NDArray[np.float64]
    torque: NDArray[np.float64]

    @property
    def settled(self) -> float | None:
        """The time from which on both angles are within 0.1 rad of upright; None if never."""
        turns = (self.q - UPRIGHT + np.pi) % (2 * np.pi) - np.pi
        astray = np.flatnonzero(np.abs(turns).max(axis=1) > SETTLED_WITHIN)
        after = astray[-1] + 1 if len(astray) else 0
        return float(self.t[after]) if after < len(self.t) else None


def torque(model: ControlModel, q: Tensor, velocity: Tensor) -> Tensor:
    """The torques (N m) of the control law at one state; all of shape ``(2,)``."""
    with torch.enable_grad():
        q = q.detach().requires_grad_()
        angles = torch.cat([q.cos(), q.sin()])
        (slope,) = torch.autograd.grad(model.potential(angles), q)
    with torch.no_grad():
        momentum = torch.linalg.solve(model.inverse_mass(angles), velocity)
        shaped = torch.linalg.solve(model.input_matrix(angles), 2 * slope - FRICTION * momentum)
        wanted: Tensor = shaped - STIFFNESS * (q - q.new_tensor(UPRIGHT))
        return wanted.clamp(-MOST_TORQUE, MOST_TORQUE)


def swing_up(model: ControlModel, seconds: float, dtype: torch.dtype = torch.float32) -> SwingUp:
    """Control the simulator from rest, hanging straight down, to upright.

    Parameters
    ----------
    model : ControlModel
        By which the torques are chosen.
    seconds : float
    dtype : torch.dtype
        Of the model.
    """
    t = INTERVAL * np.arange(round(seconds / INTERVAL) + 1, dtype=np.float64)
    q, velocity = np.zeros((1, 2)), np.zeros((1, 2))
    angles, velocities, torques = [], [], []
    for _ in t:
        chosen = torque(
            model, torch.tensor(q[0], dtype=dtype), torch.tensor(velocity[0], dtype=dtype)
        )
        angles.append(q)
        velocities.append(velocity)
        torques.append(chosen.double().numpy())
        after = simulate(q, velocity, torques[-1][None], (0.0, INTERVAL))
        q, velocity = after[0][-1], after[1][-1]
    return SwingUp(t, np.concatenate(angles), np.concatenate(velocities), np.stack(torques))
