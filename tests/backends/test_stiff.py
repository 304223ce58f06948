"""Stiff vector fields: where explicit methods end, implicit ones and their gradients do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pysemi
from pysemi.errors import StepBudgetError
from tests.vector_fields import times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]


class Relaxation(nn.Module):
    """Van der Pol's oscillator in Liénard's coordinates, its damping corrected by a network.

    mu^-2 x' = y - g(x), y' = -x: at mu = 1000 the fast time scale is a millionth of the slow one.
    """

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu
        self.correction = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, t, state):
        x, y = state[..., :1], state[..., 1:]
        damping = x**3 / 3 - x + 0.1 * self.correction(x)
        return torch.cat([self.mu**2 * (y - damping), -x], dim=-1)


T = times(0.0, 0.2, 1.0, 1.4)  # every trajectory jumps from one slow branch to the other


@pytest.fixture
def relaxation():
    torch.manual_seed(0)
    y0 = torch.tensor([[2.0, 0.6], [1.7, -0.1], [-1.8, 0.1]], dtype=torch.float64)
    return Relaxation(mu=1000.0), y0


def gradient(field, y0, tolerance, method, **more):
    y = pysemi.odeint_adjoint(
        field,
        y0,
        T,
        rtol=tolerance,
        atol=tolerance,
        # The adjoint of x is smaller than that of y by the ratio of the time scales.
        adjoint_atol=tolerance / field.mu**2,
        method=method,
        adjoint="quadrature",
        backend="julia",
        **more,
    )
    found = torch.autograd.grad(y.sin().sum(), tuple(field.parameters()))
    return torch.cat([part.reshape(-1) for part in found])


def test_dopri5_exceeds_its_budget_on_a_stiff_network(relaxation):
    field, y0 = relaxation
    for backend, budget in (("torch", 1000), ("julia", 20_000)):
        with pytest.raises(StepBudgetError) as caught, torch.no_grad():
            pysemi.odeint(
                field,
                y0,
                T,
                rtol=1e-4,
                atol=1e-4,
                method="dopri5",
                options=dict(max_num_steps=budget),
                backend=backend,
            )
        assert caught.value.t < 0.05  # of 1.4


@pytest.mark.slow  # each compiles its solver first
@pytest.mark.parametrize(
    ("method", "adjoint_method", "bound"),
    [
        ("Rodas5P", None, 1e-3),
        ("auto", None, 1e-3),
        # The backward solves of the others' own have wrong gradients, or do not end (FBDF).
        ("FBDF", "Rodas5P", 1e-3),
        ("KenCarp4", "Rodas5P", 5e-3),
        ("TRBDF2", "Rodas5P", 0.1),
    ],
)
def test_implicit_methods_have_the_gradient_of_a_stiff_network(
    relaxation, method, adjoint_method, bound
):
    field, y0 = relaxation
    exact = gradient(field, y0, 1e-10, "Rodas5P")
    with pysemi.record() as solves:
        found = gradient(field, y0, 1e-6, method, adjoint_method=adjoint_method)
    assert float((found - exact).abs().max() / exact.abs().max()) < bound
    assert sum(solve.accepted for solve in (*solves.forward, *solves.backward)) < 5000


def test_the_gradient_of_a_stiff_network_is_that_of_differences(relaxation):
    field, y0 = relaxation
    found = gradient(field, y0, 1e-10, "Rodas5P")
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).double()
    values = []
    for step in (1e-4, -2e-4):
        with torch.no_grad():
            start = 0
            for param in field.parameters():
                stop = start + param.numel()
                param += step * direction[start:stop].view(param.shape)
                start = stop
            y = pysemi.odeint(
                field, y0, T, rtol=1e-10, atol=1e-10, method="Rodas5P", backend="julia"
            )
        values.append(float(y.sin().sum()))
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(found @ direction), rel=1e-4)
