"""The models to compare on: the same each time, and their reference gradients are right."""

from __future__ import annotations

import sys

import pytest
import torch

import pysemi
from pysemi.comparison import MODELS, build
from pysemi.comparison.measure import reference
from pysemi.errors import ArgumentError, MissingExtraError

EACH = pytest.mark.parametrize("name", MODELS)


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


@EACH
def test_the_reference_is_the_gradient_of_the_discrete_solution(name):
    # Autograd through the solver's steps: nothing of the adjoint is in it.
    case = build(name)
    leaves = [part.clone().requires_grad_() for part in parts(case.y0)]
    y0 = leaves[0] if isinstance(case.y0, torch.Tensor) else tuple(leaves)
    params = dict(case.func.named_parameters())
    solver = {"rtol": 1e-12, "atol": 1e-12, "options": dict(case.options), "backend": "torch"}
    loss = case.loss(pysemi.odeint(case.func, y0, case.t, **solver))
    grads = torch.autograd.grad(loss, [*leaves, *params.values()], allow_unused=True)
    expected = reference(name, torch.float64)
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


@EACH
def test_the_reference_time_gradient_is_a_difference_quotient(name):
    case = build(name)
    expected = reference(name, torch.float64).t
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


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(ArgumentError, match="'spirals' is not one of spiral, cde"):
        build("spirals")


def test_without_torchcde_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcde", None)
    with pytest.raises(MissingExtraError, match=r"pysemi\[experiments\]"):
        build("cde")
    build("spiral")
