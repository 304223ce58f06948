"""A step that ends on a jump is noticed; torchdiffeq misses it, and every jump after it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchdiffeq

import pysemi
from pysemi.backends.landing import LandingGuard
from tests.vector_fields import times

KNOTS = torch.arange(0.0, 9.0, dtype=torch.float64)
Y0 = torch.ones(1, dtype=torch.float64)


class Staircase(torch.nn.Module):
    """y' = rate * level(t), whose level jumps at every whole number."""

    def __init__(self):
        super().__init__()
        self.levels = torch.tensor([1.0, -2.0, 3.0, -1.0, 2.0, -3.0, 1.0, 2.0, -1.0]).double()
        self.rate = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        level = self.levels[t.detach().clamp(0, 8).floor().long()]
        return self.rate * level + 0 * y


def options(**more):
    return {"jump_t": KNOTS, **more}


def crosses_a_knot(stats, sign):
    ends = stats.step_times + sign * stats.step_sizes
    low, high = np.minimum(stats.step_times, ends), np.maximum(stats.step_times, ends)
    inside = (low[:, None] < KNOTS.numpy() - 1e-6) & (high[:, None] > KNOTS.numpy() + 1e-6)
    return inside[:, 1:-1].any()


def test_torchdiffeq_misses_a_jump_that_a_step_lands_on():
    """Why the guard is there; if this fails, a newer torchdiffeq may not need it."""
    landing, beside = Staircase(), Staircase()
    with torch.no_grad():
        torchdiffeq.odeint(landing, Y0, times(0, 8), options=options(first_step=1.0))
        torchdiffeq.odeint(beside, Y0, times(0, 8), options=options(first_step=1.001))
    assert landing.calls > 3 * beside.calls


@pytest.mark.parametrize("first_step", [1.0, 1.0 - 1e-13, 0.5, 1.001])
@pytest.mark.parametrize("t", [times(0, 8), times(8, 0)], ids=["increasing", "decreasing"])
def test_pysemi_steps_on_every_jump_whatever_the_first_step(first_step, t):
    with pysemi.record() as recording, torch.no_grad():
        pysemi.odeint(Staircase(), Y0, t, options=options(first_step=first_step))
    (stats,) = recording.forward
    assert stats.accepted <= 2 * len(KNOTS)
    assert not crosses_a_knot(stats, 1 if t[0] < t[1] else -1)


def test_the_backward_solve_steps_on_every_jump_too():
    with pysemi.record() as recording:
        y = pysemi.odeint_adjoint(
            Staircase(),
            Y0,
            times(0, 8),
            options=options(),
            adjoint_options=options(first_step=1.0, norm="seminorm"),
        )
        y[-1].sum().backward()
    (stats,) = recording.backward
    assert stats.accepted <= 2 * len(KNOTS)
    assert not crosses_a_knot(stats, -1)


@pytest.mark.parametrize("name", ["jump_t", "step_t"])
def test_both_kinds_of_prescribed_times_are_landed_on(name):
    with pysemi.record() as recording, torch.no_grad():
        pysemi.odeint(
            lambda t, y: torch.cos(t) + 0 * y,
            Y0,
            times(0, 8),
            options={name: KNOTS[1:-1], "first_step": 1.0},
        )
    (stats,) = recording.forward
    assert not crosses_a_knot(stats, 1)


def test_the_solution_is_the_integral_of_the_staircase():
    func = Staircase()
    with torch.no_grad():
        y = pysemi.odeint(func, Y0, times(0, 8), options=options(first_step=1.0))
    assert float(y[-1]) == pytest.approx(1 + float(func.levels[:8].sum()), abs=1e-12)


@pytest.mark.parametrize(
    ("t", "dt", "direction", "lengthened"),
    [
        (2.0, 1.0, 1, True),
        (2.0, 1.0 - 1e-12, 1, True),
        (2.0, 1.0 + 1e-12, 1, False),  # ends beyond it, which torchdiffeq notices
        (2.0, 0.9, 1, False),
        (2.5, 1.0, 1, False),
        (2.0, 1.0, -1, True),
        (2.5, 1.0, -1, False),
    ],
)
def test_only_a_step_that_would_end_on_a_point_is_lengthened(t, dt, direction, lengthened):
    step = torch.tensor(dt, dtype=torch.float64)
    LandingGuard({"jump_t": KNOTS}, direction)(torch.tensor(t, dtype=torch.float64), step)
    assert (float(step) > dt) is lengthened


def test_without_prescribed_times_nothing_is_looked_at():
    step = torch.tensor(1.0)
    LandingGuard({}, 1)(torch.tensor(0.0), step)
    assert step == 1.0
