"""Symplectic ODE-Net is the paper's model, and its vector field is that of its energy."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jvp, vmap

import pysemi
from pysemi.errors import ArgumentError
from pysemi.models import SymplecticODENet
from pysemi.models.symplectic import Perceptron


def small(degrees: int = 2, dtype: torch.dtype = torch.float64) -> SymplecticODENet:
    torch.manual_seed(0)
    return SymplecticODENet(degrees, mass_width=12, width=10).to(dtype)


def motion(degrees: int = 2, batch: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, velocity, force = torch.randn(3, batch, degrees, generator=generator, dtype=torch.float64)
    return q, velocity, force


def embed(q: torch.Tensor) -> torch.Tensor:
    return torch.cat([q.cos(), q.sin()], dim=-1)


def state(q: torch.Tensor, velocity: torch.Tensor, force: torch.Tensor) -> torch.Tensor:
    return torch.cat([embed(q), velocity, force], dim=-1)


def test_the_papers_setting_has_the_papers_number_of_parameters():
    """509,108 in Table 3; sizes from the paper's public code."""
    assert sum(p.numel() for p in SymplecticODENet().parameters()) == 509_108


@pytest.mark.parametrize("degrees", [1, 2, 3])
def test_the_acceleration_is_that_of_the_lagrangian(degrees):
    """Euler and Lagrange: d/dt ∂L/∂q' = ∂L/∂q + g u, with L = q'ᵀ M q' / 2 - V."""
    field = small(degrees)
    q, velocity, force = motion(degrees)

    def lagrangian(q, velocity):
        mass = torch.linalg.inv(field.inverse_mass(embed(q)))
        return velocity @ mass @ velocity / 2 - field.potential(embed(q))

    def acceleration(q, velocity, force):
        pull = grad(lagrangian)(q, velocity) + field.input_matrix(embed(q)) @ force
        turning = jacfwd(grad(lagrangian, 1))(q, velocity) @ velocity
        return torch.linalg.solve(hessian(lagrangian, 1)(q, velocity), pull - turning)

    expected = vmap(acceleration)(q, velocity, force)
    found = field(torch.tensor(0.0), state(q, velocity, force))
    torch.testing.assert_close(found[:, 2 * degrees : 3 * degrees], expected)


def test_cosines_and_sines_turn_with_the_velocity_and_forces_stay():
    q, velocity, force = motion()
    found = small()(torch.tensor(0.0), state(q, velocity, force))
    torch.testing.assert_close(found[:, :4], jvp(embed, (q,), (velocity,))[1])
    assert (found[:, 6:] == 0).all()


def test_without_forces_the_energy_stays():
    field = small()
    q, velocity, force = motion()
    with torch.no_grad():
        x = pysemi.odeint(
            field, state(q, velocity, 0 * force), torch.tensor([0.0, 4.0]), rtol=1e-10, atol=1e-10
        )
        first, last = field.energy(x)
    assert (x[1] - x[0]).abs().max() > 0.5
    torch.testing.assert_close(last, first, rtol=0, atol=1e-8)


def test_with_forces_the_energy_changes_by_their_work():
    """dH/dt = q'ᵀ g u."""
    field = small()
    x = state(*motion())
    _, change = jvp(field.energy, (x,), (field(torch.tensor(0.0), x),))
    pushed = (field.input_matrix(x[:, :4]) @ x[:, 6:, None]).squeeze(-1)
    torch.testing.assert_close(change, (x[:, 4:6] * pushed).sum(-1))


def test_the_inverse_mass_is_symmetric_and_no_smaller_than_a_tenth():
    inverse = small(3).inverse_mass(embed(motion(3, batch=50)[0]))
    assert torch.equal(inverse, inverse.mT)
    assert (torch.linalg.eigvalsh(inverse) > 0.1 - 1e-12).all()


def test_a_perceptrons_derivatives_are_autograds():
    torch.manual_seed(0)
    net = Perceptron(3, 8, 2, hidden=3).double()
    x, directions = torch.randn(5, 3).double(), torch.randn(5, 4, 3).double()
    value, slopes = net.along(x, directions)
    torch.testing.assert_close(value, net(x))
    torch.testing.assert_close(slopes, directions @ vmap(jacfwd(net))(x).mT)


def test_a_state_without_a_batch_is_a_batch_of_one():
    field, x = small(), state(*motion())
    one = field(torch.tensor(0.0), x[0])
    torch.testing.assert_close(one, field(torch.tensor(0.0), x)[0])


@pytest.mark.parametrize("argument", ["degrees", "mass_width", "width"])
def test_settings_that_make_no_model_are_refused(argument):
    with pytest.raises(ArgumentError, match=argument):
        SymplecticODENet(**{argument: 0})


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "close"), [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-5, 1e-3)]
)
def test_julia_compiles_it_and_finds_torchs_gradient(dtype, tolerance, close):
    gradients = {}
    times = torch.linspace(0, 0.35, 8, dtype=dtype)
    for backend in ("torch", "julia"):
        field = small(dtype=dtype)
        x = state(*motion()).to(dtype).requires_grad_()
        with pysemi.record() as recording:
            solution = pysemi.odeint_adjoint(
                field, x, times, rtol=tolerance, atol=tolerance, backend=backend
            )
            solution.pow(2).mean().backward()
        gradients[backend] = [x.grad, *(p.grad for p in field.parameters())]
    assert recording.forward[0].bridge == recording.backward[0].bridge == "compiled"
    for found, expected in zip(gradients["julia"], gradients["torch"], strict=True):
        assert (found - expected).norm() <= close * expected.norm() + 1e-3 * close
