"""The models to compare on: the same each time, and their reference gradients are right."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from scipy.integrate import solve_ivp

import pysemi
from pysemi.comparison import MODELS, STIFF_MODELS, build
from pysemi.comparison.measure import reference
from pysemi.comparison.sensitivities import by_sensitivities
from pysemi.errors import ArgumentError, MissingExtraError, SolveError

F64 = torch.float64
EACH = pytest.mark.parametrize("name", [*MODELS, *STIFF_MODELS])
NOT_STIFF = pytest.mark.parametrize("name", MODELS)


def parts(y0):
    return (y0,) if isinstance(y0, torch.Tensor) else y0


@EACH
def test_a_model_is_the_same_each_time(name):
    first, second = build(name), build(name)
    states = [first.func.state_dict(), second.func.state_dict()]
    assert list(states[0]) == list(states[1])
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        assert torch.equal(a, b)
    assert all(map(torch.equal, parts(first.y0), parts(second.y0)))


@EACH
def test_another_dtype_is_a_copy_with_time_in_float64(name):
    case = build(name)
    rounded = case.to(torch.float32)
    assert all(param.dtype == torch.float32 for param in rounded.func.parameters())
    assert all(part.dtype == torch.float32 for part in parts(rounded.y0))
    assert rounded.t.dtype == torch.float64
    assert all(param.dtype == torch.float64 for param in case.func.parameters())
    dy = rounded.func(rounded.t[0].float(), rounded.y0)
    assert all(part.dtype == torch.float32 for part in parts(dy))


@NOT_STIFF
def test_the_reference_is_the_gradient_of_the_discrete_solution(name):
    # Autograd through the solver's steps: nothing of the adjoint is in it.
    case = build(name)
    leaves = [part.clone().requires_grad_() for part in parts(case.y0)]
    y0 = leaves[0] if isinstance(case.y0, torch.Tensor) else tuple(leaves)
    params = dict(case.func.named_parameters())
    solver = {"rtol": 1e-12, "atol": 1e-12, "options": dict(case.options), "backend": "torch"}
    loss = case.loss(pysemi.odeint(case.func, y0, case.t, **solver))
    grads = torch.autograd.grad(loss, [*leaves, *params.values()], allow_unused=True)
    expected = reference(name, F64)
    assert float(loss.detach()) == pytest.approx(expected.loss, rel=1e-10)
    ours = torch.cat([grad.reshape(-1) for grad in grads[: len(leaves)]])
    close(ours, expected.y0)
    for param, grad in zip(params, grads[len(leaves) :], strict=True):
        if grad is None:  # an energy's constant, which no motion depends on
            assert (name, param) == ("hamiltonian", "energy.4.bias")
            assert not expected.params[param].any()
        else:
            assert grad.abs().max() > 1e-6, f"the loss hardly depends on {param}"
            close(grad.reshape(-1), expected.params[param])


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-9 * float(theirs.abs().max()))


@NOT_STIFF
def test_the_reference_time_gradient_is_a_difference_quotient(name):
    case = build(name)
    expected = reference(name, F64).t
    if not case.has_time_gradient:
        assert expected is None
        return

    def loss(t):
        solver = {"rtol": 1e-12, "atol": 1e-12, "options": dict(case.options), "backend": "torch"}
        return case.loss(pysemi.odeint(case.func, case.y0, t, **solver))

    step = 1e-4
    with torch.no_grad():
        for index in range(len(case.t)):
            shift = torch.zeros_like(case.t)
            shift[index] = step
            quotient = float(loss(case.t + shift) - loss(case.t - shift)) / (2 * step)
            assert float(expected[index]) == pytest.approx(quotient, rel=1e-4, abs=1e-6)


def stiff_loss(case):
    """A model's loss, by another of SciPy's solvers and without derivatives."""

    def slope(t, y):
        with torch.no_grad():
            return case.func(torch.tensor(t), torch.from_numpy(y).view_as(case.y0)).reshape(-1)

    start = case.y0.reshape(-1).numpy()
    solver = dict(method="LSODA", t_eval=case.t.numpy(), rtol=1e-12, atol=1e-14)
    solved = solve_ivp(slope, (float(case.t[0]), float(case.t[-1])), start, **solver)
    assert solved.success
    return float(case.loss(torch.from_numpy(solved.y.T.copy()).view(-1, *case.y0.shape)))


@pytest.mark.parametrize("name", STIFF_MODELS)
def test_sensitivities_are_difference_quotients(name):
    def moved(what, by):
        case = build(name)
        with torch.no_grad():
            {"y0": case.y0, "theta": next(case.func.parameters()), "t": case.t}[what].add_(by)
        return stiff_loss(case)

    found = by_sensitivities(build(name), 1e-9, True).gradient
    for what, step in (("y0", 1e-6), ("theta", 1e-4), ("t", 1e-4)):
        gradient = getattr(found, what)
        for index, expected in enumerate(gradient):
            by = torch.zeros_like(gradient)
            by[index] = step
            by = by.view(build(name).y0.shape) if what == "y0" else by
            quotient = (moved(what, by) - moved(what, -by)) / (2 * step)
            assert quotient == pytest.approx(float(expected), rel=1e-3, abs=1e-5), (what, index)


def test_sensitivities_are_the_gradients_of_the_adjoint():
    name = "van-der-pol"
    found, expected = by_sensitivities(build(name), 1e-10, True).gradient, reference(name, F64)
    assert found.loss == pytest.approx(expected.loss, rel=1e-8)
    for what in ("y0", "theta", "t"):
        ours, theirs = getattr(found, what), getattr(expected, what)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7 * float(theirs.abs().max()))


def test_sensitivities_of_what_cannot_be_solved_are_an_error():
    case = replace(build("van-der-pol"), func=Explosion())
    with pytest.raises(SolveError, match=r"Radau says: .*step size"):
        by_sensitivities(case, 1e-6, False)


class Explosion(torch.nn.Module):
    """Infinite before the time is over."""

    def forward(self, t, y):
        return y**2 * y.abs()


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(ArgumentError, match="'spirals' is not one of spiral, cde"):
        build("spirals")


def test_without_torchcde_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcde", None)
    with pytest.raises(MissingExtraError, match=r"pysemi\[experiments\]"):
        build("cde")
    build("spiral")
