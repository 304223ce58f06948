"""Compiled or by callback: which is used when, what is said, and what is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import pysemi
from pysemi.backends.julia.bridge import forget_warnings
from pysemi.compiler import compiled, making
from pysemi.compiler.graph import Graph
from pysemi.errors import ArgumentError, BridgeWarning, CompileError
from tests.backends.test_julia import gradients, spiral
from tests.vector_fields import times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (dict(method="euler"), "method"),
        (dict(method="NoSuchMethod"), "method"),
        (dict(method=3), "method"),
        (
            dict(adjoint="interpolating", adjoint_options=dict(norm=lambda state: 1.0)),
            "adjoint_options['norm']",
        ),
        (dict(adjoint="quadrature", adjoint_rtol=(1e-6,) * 7), "adjoint_rtol"),
        (dict(bridge="magic"), "bridge"),
        (dict(options=dict(controller="mine")), "options['controller']"),
        (dict(options=dict(min_step=0.1)), "options['min_step']"),
        (dict(options=dict(safety=0.8)), "options['safety']"),
        (dict(method="Tsit5", options=dict(controller="torchdiffeq")), "options['controller']"),
        (
            dict(adjoint="gauss", adjoint_options=dict(norm=lambda state: 1.0)),
            "adjoint_options['norm']",
        ),
    ],
)
def test_what_is_not_there_is_refused_by_name(arguments, argument):
    field, y0 = spiral()
    with pytest.raises(ArgumentError) as caught:
        pysemi.odeint_adjoint(
            field, y0.requires_grad_(), times(0.0, 1.0), backend="julia", **arguments
        ).sum().backward()
    assert caught.value.argument == argument


class Branching(nn.Module):
    """Cannot be compiled: looks at a value."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y if y.sum() > -1e9 else y


def test_what_cannot_be_compiled_runs_by_callback_and_says_so_once():
    forget_warnings()
    y0 = torch.ones(2, dtype=torch.float64)
    with pytest.warns(BridgeWarning, match="if y.sum") as said:
        y, _, solves = gradients(Branching(), y0, times(0.0, 1.0), "julia", loss=lambda y: y.sum())
    assert said[0].filename.endswith("test_julia.py")  # where odeint_adjoint was called
    assert solves.forward[0].bridge == solves.backward[0].bridge == "callback"
    assert torch.allclose(y[-1], torch.exp(times(-1.0)).expand(2), rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(Branching(), y0, times(0.0, 1.0), "julia", loss=lambda y: y.sum())
    with pytest.raises(CompileError, match=r"Branching.*looks at a tensor's value"):
        pysemi.odeint_adjoint(Branching(), y0, times(0.0, 1.0), backend="julia", bridge="compiled")


def test_what_julia_cannot_build_runs_by_callback_too(monkeypatch):
    from pysemi.compiler.ops import OPERATORS
    from pysemi.compiler.ops.registry import aten

    compiled.forget_compilations()
    forget_warnings()

    def unknown(builder, meta, x):
        return builder.pointwise("no_such_function($1)", x, dtype=meta.dtype)

    monkeypatch.setitem(OPERATORS, aten.tanh.default, unknown)
    field, y0 = spiral()
    try:
        with pytest.warns(BridgeWarning, match="know no function no_such_function"):
            _, _, solves = gradients(field, y0, times(0.0, 0.1), "julia")
    finally:
        compiled.forget_compilations()
    assert solves.forward[0].bridge == "callback"


def test_more_separate_dimensions_than_a_kernel_has_loops():
    class Scrambled(nn.Module):
        def forward(self, t, y):
            return torch.sin(y.permute(7, 5, 3, 1, 6, 4, 2, 0)) + y.permute(1, 0, 3, 2, 5, 4, 7, 6)

    y0 = torch.rand((2,) * 8, dtype=torch.float64)
    _, ours, solves = gradients(Scrambled(), y0, times(0.0, 0.1), "julia")
    _, theirs, _ = gradients(Scrambled(), y0, times(0.0, 0.1), "torch")
    assert solves.forward[0].bridge == "compiled"
    assert torch.allclose(ours[0], theirs[0], rtol=1e-6)


def test_a_wrong_translation_is_found_before_it_is_used(monkeypatch):
    from pysemi.compiler.ops import OPERATORS
    from pysemi.compiler.ops.registry import aten

    compiled.forget_compilations()
    forget_warnings()

    def wrong(builder, meta, x):
        return builder.pointwise("sin($1)", x, dtype=meta.dtype)

    monkeypatch.setitem(OPERATORS, aten.tanh.default, wrong)
    field, y0 = spiral()
    try:
        with pytest.warns(BridgeWarning, match="differs from PyTorch's"):
            _, ours, _ = gradients(field, y0, times(0.0, 1.0), "julia")
        _, theirs, _ = gradients(field, y0, times(0.0, 1.0), "torch")
    finally:
        compiled.forget_compilations()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_only_the_discrete_adjoint_runs_is_checked_too(monkeypatch):
    compiled.forget_compilations()
    forget_warnings()
    right = making.split

    def without_sums(graph, bars):
        return replace(right(graph, bars), gather=Graph())

    monkeypatch.setattr(making, "split", without_sums)
    field, y0 = spiral()
    try:
        with pytest.warns(BridgeWarning, match="VJP with respect to parameter 0 differs"):
            gradients(field, y0, times(0.0, 1.0), "julia")
    finally:
        compiled.forget_compilations()


def test_a_tensor_that_silently_gets_no_gradient_is_warned_of():
    compiled.forget_compilations()
    weight = torch.eye(2, dtype=torch.float64).requires_grad_()
    inner, y0 = spiral()

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, t, y):
            return self.inner(t, y) @ weight

    with pytest.warns(UserWarning, match="adjoint_params") as said:
        pysemi.odeint_adjoint(Field(), y0, times(0.0, 1.0), backend="julia")
    assert said[0].filename == __file__


def test_python_state_that_changes_between_solves_is_noticed():
    class Switchable(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign = -1.0
            self.dropout = nn.Dropout(0.5)

        def forward(self, t, y):
            return self.sign * self.dropout(y)

    field = Switchable().eval()
    y0 = torch.ones(1, dtype=torch.float64)
    options = dict(adjoint_params=(), backend="julia", rtol=1e-9, atol=1e-9)
    falling = pysemi.odeint_adjoint(field, y0, times(0.0, 1.0), **options)
    field.sign = 1.0
    rising = pysemi.odeint_adjoint(field, y0, times(0.0, 1.0), **options)
    assert float(falling[-1]) == pytest.approx(0.36787944, rel=1e-6)
    assert float(rising[-1]) == pytest.approx(2.71828183, rel=1e-6)
    field.train()
    forget_warnings()
    with pytest.warns(BridgeWarning, match="random"):
        pysemi.odeint_adjoint(
            field, y0, times(0.0, 0.1), adjoint_params=(), backend="julia", rtol=1, atol=1
        )


def test_float32_on_both_bridges():
    field, y0 = spiral(dtype=torch.float32)
    t = torch.tensor([0.0, 0.5, 1.0])
    found = {
        bridge: gradients(field, y0, t, backend, rtol=1e-5, atol=1e-5, **options)[1]
        for bridge, backend, options in (
            ("torch", "torch", {}),
            ("compiled", "julia", dict(bridge="compiled")),
            ("callback", "julia", dict(bridge="callback")),
        )
    }
    for bridge in ("compiled", "callback"):
        for a, b in zip(found[bridge], found["torch"], strict=True):
            assert a.dtype == b.dtype
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_parameters_of_another_dtype_than_the_state():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Parameter(torch.tensor([0.5, 0.25], dtype=torch.float64))
            self.narrow = nn.Parameter(torch.tensor([-1.0, 2.0]))

        def forward(self, t, y):
            return (self.wide * y + torch.sin(self.narrow * t)).float()

    found = {}
    for backend in ("julia", "torch"):
        field, y0 = Mixed(), torch.ones(2, requires_grad=True)
        options = {"bridge": "callback"} if backend == "julia" else {}
        t = torch.tensor([0.0, 1.0])
        y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-5, atol=1e-5, backend=backend, **options)
        y[-1].sum().backward()
        found[backend] = (y0.grad, field.wide.grad, field.narrow.grad)
    for ours, theirs in zip(found["julia"], found["torch"], strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_compiled_and_callback_take_the_same_steps():
    field, y0 = spiral()
    runs = [
        gradients(field, y0, times(0.0, 0.5, 1.0), "julia", bridge=bridge)
        for bridge in ("compiled", "callback")
    ]
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)
    for direction in ("forward", "backward"):
        (one,), (two,) = (getattr(run[2], direction) for run in runs)
        assert (one.accepted, one.rejected, one.nfe) == (two.accepted, two.rejected, two.nfe)
