"""What is compiled once, what again, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pysemi
from pysemi.compiler import making
from pysemi.compiler.compiled import compile_field, forget_compilations
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import CompileError
from pysemi.state import StateLayout
from tests.compiler.models import build


@pytest.fixture(autouse=True)
def nothing_known():
    forget_compilations()


@pytest.fixture
def traces(monkeypatch):
    """Counts how often torch was asked to trace."""
    count = []
    for name in ("trace_joint", "trace_field"):
        original = getattr(making, name)

        def counted(*args, original=original):
            count.append(1)
            return original(*args)

        monkeypatch.setattr(making, name, counted)
    return count


def compile_(func, y=None, params=()):
    y = torch.linspace(-1, 1, 6).view(3, 2) if y is None else y
    return compile_field(func, StateLayout.of(y), torch.tensor(0.5), y, params)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = 1.0

    def forward(self, t, y):
        return self.scale * self.layer(y)


def test_a_second_call_and_other_weights_trace_nothing(traces):
    first, second = Scaled(), Scaled()
    one, _ = compile_(first, params=tuple(first.parameters()))
    again, _ = compile_(first, params=tuple(first.parameters()))
    other, inventory = compile_(second, params=tuple(second.parameters()))
    assert one is again is other
    assert len(traces) == 1
    assert other.params(inventory)[0] is second.layer.weight


def test_new_coefficients_in_a_new_object_trace_nothing(traces):
    first, second = build("cde-cubic", torch.float32), build("cde-cubic", torch.float32)
    one, _ = compile_(first.field, first.y, first.params)
    other, inventory = compile_(second.field, second.y, second.params)
    assert one is other
    assert len(traces) == 1
    held = other.tensors(inventory)
    assert any(x is second.field.control._b for x in held)
    assert not any(x is first.field.control._b for x in held)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f, "scale", 2.0),
        lambda f: setattr(f, "layer", nn.Sequential(nn.Linear(2, 2), nn.Tanh())),
        lambda f: f.double(),
    ],
)
def test_a_changed_field_is_compiled_anew(traces, change):
    field = Scaled()
    before, _ = compile_(field)
    change(field)
    y = torch.randn(3, 2, dtype=next(field.parameters()).dtype)
    after, _ = compile_(field, y)
    assert str(after.tape) != str(before.tape)
    assert len(traces) == 2


def test_other_shapes_and_other_parameters_are_other_compilations(traces):
    field = Scaled()
    compile_(field, torch.randn(3, 2))
    compile_(field, torch.randn(4, 2))
    compile_(field, torch.randn(3, 2), (field.layer.bias,))
    compile_(field, torch.randn(3, 2), None)
    assert len(traces) == 4


def test_a_tensor_out_of_sight_is_read_again_and_not_shared():
    hidden = {0: torch.ones(2)}

    class Blind:
        __slots__ = ()

        def __call__(self, t, y):
            return y * _HIDDEN[-1][0]

    _HIDDEN.append(hidden)
    try:
        made, inventory = compile_(Blind())
    finally:
        _HIDDEN.pop()
    assert any(x is hidden[0] for x in made.tensors(inventory))


_HIDDEN: list = []


def refusal(func, y=None, params=()):
    with pytest.raises(Untranslatable) as caught:
        compile_(func, y, params)
    return caught.value.what


def test_control_flow_on_values_is_refused_with_the_line():
    def field(t, y):
        if y.sum() > 0:
            return y
        return -y

    what = refusal(field)
    assert "looks at a tensor's value" in what
    assert "if y.sum() > 0:" in what


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y: torch.as_tensor(y.detach().numpy()),
        lambda t, y: y * torch.as_tensor(np.sin(y.detach())),
        lambda t, y: torch.tensor(y.tolist()),
        lambda t, y: torch.from_dlpack(np.from_dlpack(y.detach())),
        lambda t, y: y * torch.tensor([y[0, 0], t]),
        lambda t, y: y * y.new_tensor([[1.0, y[0, 1]]]),
    ],
)
@pytest.mark.parametrize("params", [None, ()])
def test_numbers_that_leave_torch_are_refused_since_the_trace_would_keep_them(field, params):
    assert "looks at a tensor's value" in refusal(field, params=params)


def test_a_result_as_long_as_the_values_make_it_is_refused():
    assert "no fixed shape" in refusal(lambda t, y: y * len(torch.nonzero(y)))


def test_a_tensor_made_in_inference_mode_is_read_like_any_other():
    with torch.inference_mode():
        scale = torch.ones(2)
    made, inventory = compile_(lambda t, y: y * scale, params=None)
    assert made.tensors(inventory)[0] is scale


def test_random_numbers_are_refused_by_name():
    assert "rand" in refusal(lambda t, y: y + torch.rand_like(y))
    dropout = nn.Dropout(0.5)
    assert "random" in refusal(lambda t, y: dropout(y))


def test_a_counter_is_refused_by_the_name_of_the_attribute():
    class Counting(Scaled):
        def __init__(self):
            super().__init__()
            self.nfe = 0

        def forward(self, t, y):
            self.nfe += 1
            return super().forward(t, y)

    assert "nfe" in refusal(Counting())


@pytest.mark.parametrize("in_place", [True, False])
def test_a_changed_buffer_is_refused_by_name(in_place):
    class Running(Scaled):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, t, y):
            if in_place:
                self.calls += 1
            else:
                self.calls = self.calls + 1
            return super().forward(t, y)

    assert "calls" in refusal(Running())


def test_unsupported_dtypes_are_refused():
    assert "float16" in refusal(lambda t, y: y, torch.ones(2, dtype=torch.float16))
    single = nn.Linear(2, 2)
    y = torch.ones(3, 2, dtype=torch.float64)
    what = refusal(lambda t, y: single(y.float()).double(), y, tuple(single.parameters()))
    assert "torch.float32" in what


def test_an_unknown_operator_is_named():
    assert "aten.mode.default" in refusal(lambda t, y: y.mode(dim=0)[0])


def test_reflections_of_many_columns_are_refused():
    assert "65 columns" in refusal(lambda t, y: torch.linalg.qr(y)[0], torch.ones(70, 65))


def test_a_refusal_is_remembered(traces):
    def field(t, y):
        return y + torch.rand_like(y)

    for _ in range(3):
        refusal(field)
    assert len(traces) == 1


def test_tensors_that_a_call_creates_are_constants():
    made, _ = compile_(lambda t, y: y * torch.tensor([1.0, 2.0]))
    assert [buffer.role for buffer in made.tape.buffers].count("constant") == 1
    assert not made.sources


def test_the_public_function_shows_the_listing_and_names_what_it_cannot_do():
    field = pysemi.compile(Scaled(), torch.zeros(3, 2))
    assert "matmul" in field.listing
    assert field.kernels == len(field.tape.programs["joint"])
    assert "6 states" in repr(field)
    with pytest.raises(CompileError, match="rand"):
        pysemi.compile(lambda t, y: y * torch.rand(()), torch.zeros(2))
    assert pysemi.compile(lambda t, y: (y[0], -y[0]), (torch.zeros(2), torch.zeros(2))).kernels
