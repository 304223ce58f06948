"""The fully actuated double pendulum, or acrobot, and windows of its motion.

Nothing is downloaded: the motion is solved for here, in float64. Two rods hang
from a pivot, one below the other, with a motor in each joint. q₁ is the first
rod's angle from hanging straight down, q₂ the second's relative to the first,
and the state of a model is x = (cos q₁, cos q₂, sin q₁, sin q₂, q₁', q₂', τ₁, τ₂).

The rods and the forcing are those of the paper's public code (and of Zhong, Dey &
Chakraborty 2020, whose simulator that is: OpenAI Gym's acrobot with two motors),
but for the torques' places. There the first torque acts on the second joint, and
the second one, reversed, on the first; here τ₁ acts on q₁ and τ₂ on q₂. The set of
constant torques is the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pysemi.errors import ArgumentError
from pysemi.experiments.data.labelled_series import spread

__all__ = [
    "INTERVAL",
    "TORQUES",
    "AcrobotWindows",
    "acceleration",
    "acrobot_windows",
    "energy",
    "gravity_torque",
    "mass_matrix",
    "simulate",
]

Array: TypeAlias = NDArray[np.float64]

LENGTH = 1.0
"""Of each rod, m."""

CENTRE = 0.5
"""From a rod's joint to its centre of mass, m."""

MASS = 1.0
"""Of each rod, kg."""

INERTIA = 1.0
"""Of each rod about its centre of mass, kg m²."""

GRAVITY = 9.8
"""m/s²."""

INTERVAL = 0.05
"""Between two observations, s."""

TORQUES = np.array(
    [(0, 0), (0, 1), (0, -1), (0, 2), (0, -2), (1, 0), (-1, 0), (2, 0), (-2, 0)], dtype=np.float64
)
"""What the motors exert, constantly, in the training data; N m, shape ``(9, 2)``."""

TRAIN_SHARE = 0.7
"""Of the trajectories, as in the paper's code."""

SEED = 20210718
"""Of the initial states. Any will do; it is fixed so that everybody trains on the same data."""

TOLERANCE = 1e-11


def mass_matrix(q: Array) -> Array:
    """M(q), kg m², for angles of shape ``(..., 2)``; shape ``(..., 2, 2)``."""
    cos = np.cos(q[..., 1])
    second = np.full_like(cos, MASS * CENTRE**2 + INERTIA)
    coupled = second + MASS * LENGTH * CENTRE * cos
    first = 2 * coupled - second + MASS * (CENTRE**2 + LENGTH**2) + INERTIA
    return np.stack([first, coupled, coupled, second], axis=-1).reshape(*cos.shape, 2, 2)


def gravity_torque(q: Array) -> Array:
    """dV/dq, N m; shape ``(..., 2)`` like the angles."""
    second = MASS * CENTRE * GRAVITY * np.sin(q[..., 0] + q[..., 1])
    first = MASS * (CENTRE + LENGTH) * GRAVITY * np.sin(q[..., 0])
    return np.stack([first + second, second], axis=-1)


def energy(q: Array, velocity: Array) -> Array:
    """Kinetic and potential energy, J, the latter 0 with both rods level.

    Parameters
    ----------
    q, velocity : array
        Shape ``(..., 2)``, rad and rad/s.

    Returns
    -------
    array
        Shape ``(...)``.
    """
    kinetic = np.einsum("...i,...ij,...j", velocity, mass_matrix(q), velocity) / 2
    height_1 = -np.cos(q[..., 0])
    height_2 = -np.cos(q[..., 0] + q[..., 1])
    heights = CENTRE * (height_1 + height_2) + LENGTH * height_1
    result: Array = kinetic + MASS * GRAVITY * heights
    return result


def acceleration(q: Array, velocity: Array, torque: Array) -> Array:
    """q'', rad/s²: M q'' = τ - C(q, q') - dV/dq. All of shape ``(..., 2)``."""
    bend = MASS * LENGTH * CENTRE * np.sin(q[..., 1])
    first, second = velocity[..., 0], velocity[..., 1]
    coriolis = np.stack([-bend * second * (2 * first + second), bend * first**2], axis=-1)
    pull = torque - coriolis - gravity_torque(q)
    return np.asarray(np.linalg.solve(mass_matrix(q), pull[..., None])[..., 0], dtype=np.float64)


def simulate(
    q: ArrayLike, velocity: ArrayLike, torque: ArrayLike, times: ArrayLike
) -> tuple[Array, Array]:
    """Solve for the motion under constant torques.

    Parameters
    ----------
    q, velocity, torque : array
        Shape ``(trajectories, 2)``: initial angles (rad) and velocities (rad/s), torques (N m).
    times : array
        Shape ``(times,)``, s; the first is that of the initial state.

    Returns
    -------
    q, velocity : array
        Shape ``(times, trajectories, 2)``.
    """
    from scipy.integrate import solve_ivp

    torque = np.asarray(torque, dtype=np.float64)
    shape = (2, *torque.shape)

    def rate(_: float, y: Array) -> Array:
        q, velocity = y.reshape(shape)
        return np.stack([velocity, acceleration(q, velocity, torque)]).ravel()

    y = np.stack([np.asarray(q), np.asarray(velocity)]).astype(np.float64).ravel()
    states = [y]
    # One call for each interval: the solution is the solver's own, not that of an interpolant.
    for span in pairwise(np.asarray(times, dtype=np.float64)):
        y = solve_ivp(rate, span, y, method="DOP853", rtol=TOLERANCE, atol=TOLERANCE).y[:, -1]
        states.append(y)
    motion = np.stack(states).reshape(-1, *shape)
    return motion[:, 0], motion[:, 1]


@dataclass(frozen=True)
class AcrobotWindows:
    """Short pieces of trajectories, each to be predicted from its first point.

    Attributes
    ----------
    train, test : Tensor
        Shape ``(windows, points, 8)``, float32, the channels as the module says.
    times : Tensor
        Shape ``(points,)``, s, from 0.
    split : str
        How training and test set were separated, in words.
    """

    train: Tensor
    test: Tensor
    times: Tensor
    split: str

    def limited(self, train: int | None, test: int | None) -> AcrobotWindows:
        """At most so many windows of each set, spread evenly over it."""
        return replace(self, train=spread(self.train, train), test=spread(self.test, test))


def acrobot_windows(
    *, trajectories: int, steps: int, points: int, amplitude: float
) -> AcrobotWindows:
    """Simulate, and cut every window of ``points`` observations out of every trajectory.

    Parameters
    ----------
    trajectories : int
        For each of the nine torques.
    steps : int
        Observations of a trajectory, :data:`INTERVAL` apart.
    points : int
        Observations of a window; a trajectory has ``steps - points + 1`` windows.
    amplitude : float
        Initial angles (rad) and velocities (rad/s) are uniform within ± this.

    Raises
    ------
    ArgumentError
        If there is no window, or no trajectory to test on.
    """
    if not 2 <= points <= steps:
        raise ArgumentError("points", f"{points}; give at least 2, and no more than steps, {steps}")
    if trajectories < 2:
        raise ArgumentError("trajectories", f"{trajectories}; give at least 2, one to test on")
    training = int(TRAIN_SHARE * trajectories)
    random = np.random.default_rng(SEED)
    torque = np.repeat(TORQUES, trajectories, axis=0)
    q, velocity = simulate(
        random.uniform(-amplitude, amplitude, torque.shape),
        random.uniform(-amplitude, amplitude, torque.shape),
        torque,
        INTERVAL * np.arange(steps),
    )
    states = np.concatenate(
        [np.cos(q), np.sin(q), velocity, np.broadcast_to(torque, q.shape)], axis=-1
    )
    motion = torch.from_numpy(states).float().unflatten(1, (len(TORQUES), trajectories))

    def windows(part: Tensor) -> Tensor:
        return part.unfold(0, points, 1).flatten(0, 2).mT.contiguous()

    return AcrobotWindows(
        train=windows(motion[:, :, :training]),
        test=windows(motion[:, :, training:]),
        times=INTERVAL * torch.arange(points),
        split=f"by trajectory: of {trajectories} for each torque, {training} to train on",
    )
