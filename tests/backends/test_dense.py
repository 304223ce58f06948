"""A dense solution is its steps' interpolant, and so are its gradients."""

from __future__ import annotations

import gc

import pytest
import torch

import pysemi
from pysemi.errors import ArgumentError, SolveError
from tests.vector_fields import Decay, Flow, Spiral, times

BACKENDS = pytest.mark.parametrize(
    "backend", ["torch", pytest.param("julia", marks=pytest.mark.julia)], indirect=True
)


@pytest.fixture
def backend(request):
    if request.param == "julia":
        request.getfixturevalue("real_julia")
    return request.param


def state(batch=3):
    return torch.linspace(-1, 1, 2 * batch, dtype=torch.float64).view(batch, 2)


def dense(field=None, y0=None, t0=0.0, t1=1.0, **options):
    field = Spiral() if field is None else field
    y0 = state() if y0 is None else y0
    return pysemi.odeint_dense(field, y0, t0, t1, **{"rtol": 1e-8, "atol": 1e-8, **options})


@BACKENDS
def test_it_is_called_with_times_of_any_shape_in_any_order(backend):
    y = dense(backend=backend)
    assert (y.t0, y.t1) == (0.0, 1.0)
    assert repr(backend) in repr(y)
    at = torch.tensor([[0.9, 0.0], [0.3, 1.0], [0.3, 0.123]], dtype=torch.float64)
    found = y(at)
    assert found.shape == (3, 2, 3, 2)
    assert torch.equal(found[1, 0], found[2, 0])
    assert torch.equal(found[0, 1], state())
    assert torch.allclose(y(0.9), found[0, 0], rtol=1e-12)
    assert y(torch.tensor(0.3)).shape == (3, 2)
    expected = pysemi.odeint(
        Spiral(), state(), times(0.0, 0.3, 0.9, 1.0), backend="torch", rtol=1e-10, atol=1e-10
    )
    for index, value in ((1, found[1, 0]), (2, found[0, 0]), (3, found[1, 1])):
        assert torch.allclose(expected[index], value, rtol=1e-6, atol=1e-6)
    assert y(torch.empty(0, dtype=torch.float64)).shape == (0, 3, 2)


@BACKENDS
def test_its_gradients_equal_those_of_odeint_at_the_same_times(backend):
    field = Spiral()
    at = times(0.0, 0.17, 0.17, 0.61, 1.0)
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    weights = torch.randn(5, 3, 2, dtype=torch.float64)

    def gradients(solve):
        y0 = state().requires_grad_()
        t = at.clone().requires_grad_()
        y = solve(y0, t)
        return torch.autograd.grad((y * weights).sum(), [y0, t, *field.parameters()])

    def densely(y0, t):
        return dense(field, y0, backend=backend)(t[shuffled])[torch.argsort(shuffled)]

    def plainly(y0, t):
        options = dict(backend="torch", rtol=1e-11, atol=1e-11)
        first = pysemi.odeint(field, y0, torch.cat([t[:1], t[1:2], t[3:]]), **options)
        return torch.cat([first[:2], pysemi.odeint(field, y0, t[[0, 2]], **options)[1:], first[2:]])

    ours, theirs = gradients(densely), gradients(plainly)
    for a, b in zip(ours[:1] + ours[2:], theirs[:1] + theirs[2:], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    # Of the start, only the time that was asked for: not where the solve began.
    assert torch.allclose(ours[1][1:], theirs[1][1:], rtol=1e-4, atol=1e-4)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.parametrize("method", ["dopri5", "Tsit5", "Vern7"])
@pytest.mark.parametrize("checkpoints", [2, 1000])
@pytest.mark.parametrize("t1", [1.0, -2.0])
def test_its_values_and_gradients_are_odeint_s_to_rounding(method, checkpoints, t1):
    # The same steps, since no observation time is a step's end, and the same interpolation.
    field, y0 = Spiral(), state()
    at = t1 * times(0.17, 0.171, 0.61, 1.0)
    options = dict(options=dict(checkpoints=checkpoints), method=method)
    found = []
    for densely in (True, False):
        leaf = y0.clone().requires_grad_()
        t = at.clone().requires_grad_()
        if densely:
            y = dense(field, leaf, 0.0, t1, backend="julia", **options)(t)
        else:
            grid = torch.cat([torch.zeros(1, dtype=torch.float64), t])
            y = pysemi.odeint(field, leaf, grid, backend="julia", rtol=1e-8, atol=1e-8, **options)[
                1:
            ]
        found.append((y, *torch.autograd.grad((y**2).sum(), [leaf, t, *field.parameters()])))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11 * float(b.detach().abs().max()))


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
def test_the_derivative_of_a_loss_with_respect_to_the_start():
    t0 = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    y = dense(Decay(), torch.ones(2, dtype=torch.float64), t0, 1.0, backend="julia")
    at = times(0.2, 0.7).requires_grad_()
    (start, where) = torch.autograd.grad(y(at).sum(), [t0, at])
    # y(t) = exp(t0 - t)
    value = float(torch.exp(t0 - 0.7).detach())
    assert float(start) == pytest.approx(2 * (1 + value), rel=1e-6)
    assert where.tolist() == pytest.approx([-2.0, -2 * value], rel=1e-6)


@BACKENDS
def test_a_tuple_state(backend):
    y0 = (torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    z, integral = dense(Flow(), y0, backend=backend)(times(0.25, 0.5))
    assert z.shape == (2, 4, 3)
    assert integral.shape == (2, 4)
    expected = pysemi.odeint(Flow(), y0, times(0.0, 0.5), backend="torch")
    assert torch.allclose(z[1], expected[0][1], rtol=1e-6)
    assert torch.allclose(integral[1], expected[1][1], rtol=1e-6)


@BACKENDS
def test_it_may_be_evaluated_often_and_outlives_what_made_it(backend):
    field, y0 = Spiral(), state().requires_grad_()
    y = dense(field, y0, backend=backend)
    for _ in range(3):
        first, second = y(0.3), y(times(0.8))
        gradient = torch.autograd.grad(first.sum() + second.sum(), y0, retain_graph=True)[0]
        assert gradient.isfinite().all()
    del field
    gc.collect()
    kept = y(0.5)
    del y
    gc.collect()
    kept.sum().backward()
    assert y0.grad.isfinite().all()


@BACKENDS
def test_without_gradients(backend):
    with torch.no_grad():
        y = dense(backend=backend)
        assert not y(0.5).requires_grad
    assert not dense(backend=backend, field=lambda t, y: -y)(0.5).requires_grad


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
def test_a_field_changed_after_the_solve_is_noticed():
    field = Spiral()
    y = dense(field, backend="julia")
    y(0.5)
    with torch.no_grad():
        next(field.parameters()).mul_(2)
    with pytest.raises(ArgumentError, match="changed after the solve"):
        y(0.5)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
def test_statistics_of_the_solve_and_of_the_passes_back():
    y0 = state().requires_grad_()
    with pysemi.record() as solves:
        y = dense(Spiral(), y0, backend="julia")
        y(0.5).sum().backward()
        y(times(0.2, 0.9)).sum().backward()
    assert len(solves.forward) == 1
    assert [stats.adjoint for stats in solves.backward] == ["discrete", "discrete"]
    # Steps after the last time take no part, so they are not passed.
    assert 0 < solves.backward[0].nvjp < solves.backward[1].nvjp


@BACKENDS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(t0=torch.zeros(2)), r"t0: has shape \(2,\); give one time"),
        (dict(t1=0.0), r"t: t\[0\] = t\[1\] = 0"),
        (dict(method="Rodas5P"), "method"),
        (dict(y0=[1.0]), "y0: is a list"),
    ],
)
def test_what_cannot_be_solved_is_refused(backend, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        dense(backend=backend, **arguments)


@BACKENDS
@pytest.mark.parametrize("t", [1.1, -0.1, float("nan"), torch.tensor([0.5, 2.0])])
def test_a_time_outside_is_refused(backend, t):
    with pytest.raises(ArgumentError, match="is not between t0 = 0 and t1 = 1"):
        dense(backend=backend)(t)


def test_torch_has_one_method_and_one_direction():
    with pytest.raises(ArgumentError, match="'dopri5'; other methods need backend='julia'"):
        dense(backend="torch", method="bosh3")
    with pytest.raises(ArgumentError, match="t1: is before t0"):
        dense(backend="torch", t1=-1.0)


@BACKENDS
def test_a_solve_that_fails_says_so(backend):
    with pytest.raises(SolveError, match="forward solve"):
        dense(lambda t, y: y**2, 3 * torch.ones(1, dtype=torch.float64), backend=backend)
