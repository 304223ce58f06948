"""Perceptrons that nobody chose: Julia against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pysemi.comparison import Case, Setting
from pysemi.comparison.compare import BOUNDS
from pysemi.comparison.measure import on_julia, on_torch
from pysemi.comparison.models import weighted_loss

pytestmark = [
    pytest.mark.julia,
    pytest.mark.usefixtures("real_julia"),
    pytest.mark.timeout(600),
]

SMOOTH = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU)


class Perceptron(nn.Module):
    """dy/dt of y, and of t where ``timed``."""

    def __init__(self, channels, widths, activations, bias, timed):
        super().__init__()
        self.timed = timed
        layers = []
        inputs = channels + timed
        for width, activation in zip(widths, activations, strict=True):
            layers += [nn.Linear(inputs, width, bias=bias), activation()]
            inputs = width
        self.net = nn.Sequential(*layers, nn.Linear(inputs, channels, bias=bias))

    def forward(self, t, y):
        if self.timed:
            y = torch.cat([y, t.expand(*y.shape[:-1], 1)], dim=-1)
        return self.net(y)


@st.composite
def cases(draw, choice=SMOOTH):
    channels = draw(st.integers(1, 5))
    depth = draw(st.integers(0, 3))
    widths = [draw(st.integers(1, 17)) for _ in range(depth)]
    activations = [draw(st.sampled_from(choice)) for _ in range(depth)]
    batch = draw(st.sampled_from([(), (1,), (3,), (7,), (2, 3), (1, 4, 1)]))
    seed = draw(st.integers(0, 2**20))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        func = Perceptron(channels, widths, activations, draw(st.booleans()), draw(st.booleans()))
        y0 = torch.randn(*batch, channels, dtype=torch.float64)
    t = draw(
        st.sampled_from([(0.0, 1.0), (0.0, 0.3, 1.1), (1.0, 0.6, 0.5), (-0.5, 0.25, 0.5, 1.0)])
    )
    return Case(func.double(), y0, torch.tensor(t, dtype=torch.float64), weighted_loss)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=cases(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    norm=st.sampled_from(["default", "seminorm", "rms"]),
    adjoint=st.sampled_from(["backsolve", "interpolating", "gauss", "quadrature", "discrete"]),
    method=st.sampled_from(["dopri5", "Tsit5"]),
)
def test_any_perceptron_has_torchs_gradient_on_julia(case, dtype, norm, adjoint, method):
    setting = Setting(dtype=dtype, norm=norm, adjoint=adjoint, method=method, bridge="compiled")
    assert_gradients_agree(case.to(dtype), setting, BOUNDS[dtype] * setting.tolerance)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases((*SMOOTH, nn.ELU)))
def test_a_kink_in_the_derivative_costs_a_digit(case):
    # ELU's second derivative jumps at 0. Where no norm looks at a_θ, as with the seminorm and
    # "gauss", a step may cross that unnoticed, so this is for the default norm.
    setting = Setting(bridge="compiled")
    assert_gradients_agree(case, setting, 10 * BOUNDS[setting.dtype] * setting.tolerance)


def assert_gradients_agree(case, setting, bound):
    ours, theirs = (solve(case, setting, True) for solve in (on_julia, on_torch))
    assert ours.backward.bridge == "compiled"
    for part in ("y0", "theta", "t"):
        a, b = getattr(ours.gradient, part), getattr(theirs.gradient, part)
        # atol is as large as rtol: what is small is not known to more digits.
        scale = max(float(b.abs().max()), 0.1)
        assert float((a - b).abs().max()) <= bound * scale, part


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), norm=st.sampled_from(["default", "seminorm", "rms"]))
def test_any_perceptron_takes_torchdiffeqs_steps_on_julia(case, norm):
    # (Not with ELU: near a kink of f' each rejection multiplies a rounding error.)
    setting = Setting(norm=norm, controller="torchdiffeq")
    ours, theirs = (solve(case, setting, False) for solve in (on_julia, on_torch))
    for direction in ("forward", "backward"):
        a, b = getattr(ours, direction), getattr(theirs, direction)
        assert abs(a.accepted - b.accepted) <= max(2, 0.05 * b.accepted)
        assert abs(a.rejected - b.rejected) <= max(2, 0.05 * b.rejected)
