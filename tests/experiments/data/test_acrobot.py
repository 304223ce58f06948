"""The simulated double pendulum obeys mechanics, and its windows are cut fairly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from pysemi.errors import ArgumentError
from pysemi.experiments.data.acrobot import (
    INTERVAL,
    TORQUES,
    acceleration,
    acrobot_windows,
    energy,
    gravity_torque,
    mass_matrix,
    simulate,
)

SETTINGS = {"trajectories": 4, "steps": 6, "points": 3, "amplitude": 2.0}


def swings(count: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(0).uniform(-3, 3, (3, count, 2)))


def test_without_torques_the_energy_stays():
    q, velocity, _ = swings()
    motion = simulate(q, velocity, np.zeros_like(q), np.linspace(0, 10, 51))
    found = energy(*motion)
    assert np.ptp(motion[0], axis=0).min() > 1
    assert np.abs(found - found[0]).max() < 1e-8


def test_constant_torques_change_the_energy_by_their_work():
    q, velocity, torque = swings()
    angles, velocities = simulate(q, velocity, torque, np.linspace(0, 5, 11))
    work = ((angles - angles[0]) * torque).sum(axis=-1)
    found = energy(angles, velocities)
    assert np.abs(work[-1]).min() > 0.1
    np.testing.assert_allclose(found - found[0], work, atol=1e-8)


def test_the_energy_is_that_of_two_rods():
    """Each rod's own, from the velocity of its middle by finite differences of where that is."""
    q, velocity, _ = swings()

    def middles(q):
        first, both = q[..., 0], q.sum(axis=-1)
        x, y = np.sin(first), -np.cos(first)
        return np.stack([x / 2, y / 2, x + np.sin(both) / 2, y - np.cos(both) / 2], axis=-1)

    moving = (middles(q + 1e-6 * velocity) - middles(q - 1e-6 * velocity)) / 2e-6
    spinning = np.stack([velocity[:, 0], velocity.sum(axis=1)])
    kinetic = ((moving**2).sum(axis=-1) + (spinning**2).sum(axis=0)) / 2
    height = middles(q)[:, [1, 3]].sum(axis=1)
    np.testing.assert_allclose(energy(q, velocity), kinetic + 9.8 * height, atol=1e-7)


def test_gravity_pulls_down_the_slope_of_the_energy():
    q, _, _ = swings()
    rest = np.zeros_like(q)
    for joint, step in enumerate(1e-5 * np.eye(2)):
        slope = (energy(q + step, rest) - energy(q - step, rest)) / 2e-5
        np.testing.assert_allclose(gravity_torque(q)[:, joint], slope, atol=1e-7)


def test_each_torque_acts_on_its_own_joint():
    """At rest, hanging down: M q'' = τ."""
    rest = np.zeros((1, 2))
    for torque in np.eye(2):
        found = mass_matrix(rest) @ acceleration(rest, rest, torque[None])[..., None]
        np.testing.assert_allclose(found[0, :, 0], torque, atol=1e-12)


def test_small_swings_have_the_frequencies_of_the_linear_problem():
    """K v = ω² M v about hanging down; each mode comes back after 2π/ω."""
    stiffness = 9.8 * np.array([[2.0, 0.5], [0.5, 0.5]])  # d²V/dq²
    squares, modes = eigh(stiffness, mass_matrix(np.zeros(2)))
    for square, mode in zip(squares, modes.T, strict=True):
        q = 1e-4 * mode[None]
        half = np.pi / np.sqrt(square)
        angles, velocities = simulate(q, 0 * q, 0 * q, np.array([0, half, 2 * half]))
        np.testing.assert_allclose(angles[:, 0], 1e-4 * np.outer([1, -1, 1], mode), atol=1e-10)
        np.testing.assert_allclose(velocities[1:], 0, atol=1e-10)


def test_trajectories_are_the_same_alone_and_together():
    q, velocity, torque = swings()
    together = simulate(q, velocity, torque, np.array([0, 1.0]))[0]
    alone = [simulate(*(one[i : i + 1] for one in swings()), np.array([0, 1.0]))[0] for i in (0, 3)]
    np.testing.assert_allclose(together[:, [0, 3]], np.concatenate(alone, axis=1), atol=1e-8)


def test_the_data_are_always_the_same():
    first, second = acrobot_windows(**SETTINGS), acrobot_windows(**SETTINGS)
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.test, second.test)


def test_there_is_a_window_from_every_start_in_every_trajectory():
    windows = acrobot_windows(**SETTINGS)
    # 2 of 4 trajectories for each of 9 torques, and 4 windows in each.
    assert windows.train.shape == windows.test.shape == (72, 3, 8)
    torch.testing.assert_close(windows.times, INTERVAL * torch.arange(3))


def test_a_window_is_a_piece_of_a_motion():
    windows = acrobot_windows(**SETTINGS)
    x = torch.cat([windows.train, windows.test]).double().numpy()
    cos, sin, velocity, torque = np.split(x, 4, axis=-1)
    q = np.arctan2(sin, cos)
    later, faster = simulate(q[:, 0], velocity[:, 0], torque[:, 0], INTERVAL * np.arange(3))
    np.testing.assert_allclose(np.cos(later), cos.swapaxes(0, 1), atol=1e-5)
    np.testing.assert_allclose(np.sin(later), sin.swapaxes(0, 1), atol=1e-5)
    np.testing.assert_allclose(faster, velocity.swapaxes(0, 1), atol=1e-5)
    assert {tuple(one) for one in torque[:, 0]} == {tuple(one) for one in TORQUES}


def test_no_trajectory_is_in_both_sets():
    """Windows of one trajectory share points; no point of one set is in the other."""
    windows = acrobot_windows(**SETTINGS)
    points = [
        {tuple(x) for x in part.flatten(0, 1).tolist()} for part in (windows.train, windows.test)
    ]
    assert not points[0] & points[1]
    assert len(points[0]) == 2 * 9 * 6  # trajectories, torques, steps


def test_the_papers_data_are_as_many():
    """89 of 128 trajectories to train on, as in the paper's code: 79 batches of 256."""
    windows = acrobot_windows(trajectories=128, steps=32, points=8, amplitude=0.1)
    assert len(windows.train) == 9 * 89 * 25


def test_a_small_amplitude_makes_small_swings():
    x = acrobot_windows(trajectories=4, steps=32, points=2, amplitude=0.1).train
    free = x[(x[:, 0, 6:] == 0).all(dim=1)]
    assert torch.atan2(free[..., 2:4], free[..., :2]).abs().max() < 0.3


@pytest.mark.parametrize(
    ("change", "argument"),
    [({"points": 1}, "points"), ({"points": 7}, "points"), ({"trajectories": 1}, "trajectories")],
)
def test_settings_without_windows_are_refused(change, argument):
    with pytest.raises(ArgumentError, match=argument):
        acrobot_windows(**{**SETTINGS, **change})
