"""Event functions become tapes whose result is the vector of their values."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from pysemi.compiler.compiled import (
    compile_event,
    compile_field,
    flat_event,
    forget_compilations,
)
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.state import StateLayout
from tests.compiler.tape_machine import TapeMachine

THRESHOLD = nn.Parameter(torch.tensor([0.25, -0.5], dtype=torch.float64))


@pytest.fixture(autouse=True)
def nothing_known():
    forget_compilations()


def state(dtype=torch.float64):
    return torch.linspace(-1, 1, 6, dtype=dtype).view(3, 2)


def compile_(event_fn, y=None, t=0.5):
    y = state() if y is None else y
    layout = StateLayout.of(y)
    flat = layout.flatten(y)
    return compile_event(event_fn, layout, torch.tensor(t, dtype=flat.dtype), flat)


def values(event_fn, y=None, t=0.5, *, traced_at=None):
    """What the tape of ``event_fn`` computes at (t, y), having been traced elsewhere."""
    y = state() if y is None else y
    made, inventory = compile_(event_fn, y if traced_at is None else traced_at)
    machine = TapeMachine(str(made.tape))
    machine.roles["t"][0].fill_(t)
    machine.roles["y"][0].copy_(StateLayout.of(y).flatten(y).reshape(-1))
    for memory, tensor in zip(
        machine.roles.get("tensor", []), made.tensors(inventory), strict=True
    ):
        memory.copy_(tensor.detach().reshape(-1))
    for memory, buffer in zip(
        machine.roles.get("constant", []), made.tape.of_role("constant"), strict=True
    ):
        memory.copy_(buffer.value.reshape(-1))
    machine.run("field")
    return machine.roles["dy"][0]


class Surface(nn.Module):
    """A module, whose forward and another method are event functions."""

    def __init__(self):
        super().__init__()
        self.normal = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def forward(self, t, y):
        return y @ self.normal - t

    def height(self, t, y):
        return self.normal[0] - y[0, 0]


EVENTS = {
    "shape ()": lambda t, y: y[0, 0] - 0.5,
    "shape (1,)": lambda t, y: y[0, :1] - 0.5,
    "shape (3, 1, 2)": lambda t, y: (y - 0.5)[:, None],
    "a captured parameter": lambda t, y: y[0] - THRESHOLD,
    "time alone": lambda t, y: t - 0.7,
    "the time itself": lambda t, y: t,
    "the state itself": lambda t, y: y,
    "a view of the state": lambda t, y: y.T[1],
    "a constant": lambda t, y: torch.ones(2),
    "the parameter itself": lambda t, y: THRESHOLD,
    "a reduction": lambda t, y: y.abs().amax() - 0.5,
    "another precision": lambda t, y: y.float().sum(),
    "a module": Surface(),
    "a bound method": Surface().height,
    "a partial": partial(lambda c, t, y: y[0] - c, 0.25),
}


@pytest.mark.parametrize("name", EVENTS)
def test_the_tape_computes_what_torch_does(name):
    event_fn, y, t = EVENTS[name], torch.flip(state(), (0,)) * 0.9, 0.3
    found = values(event_fn, y, t, traced_at=state())
    expected = event_fn(torch.tensor(t, dtype=torch.float64), y).detach().reshape(-1).double()
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-7 if "precision" in name else 1e-15)


def test_a_tuple_state_is_seen_as_the_user_has_it():
    def event_fn(t, y):
        position, velocity = y
        return torch.stack([position.sum() - t, velocity])

    y = (torch.tensor([1.0, 2.0]), torch.tensor(-3.0))
    assert torch.equal(values(event_fn, y), torch.tensor([2.5, -3.0]))


def test_single_precision_stays_single():
    made, _ = compile_(lambda t, y: y[0] - t, state(torch.float32))
    assert {buffer.dtype for buffer in made.tape.buffers} == {torch.float32}


def test_the_tape_has_one_program_and_as_many_results_as_values():
    made, _ = compile_(lambda t, y: y.sum(dim=1))
    assert list(made.tape.programs) == ["field"]
    sizes = {buffer.role: buffer.size for buffer in made.tape.buffers if buffer.role != "work"}
    assert sizes == {
        "t": 1, "y": 6, "cotangent": 1, "params": 1, "dy": 3, "y_bar": 1, "params_bar": 1,
    }  # fmt: skip


def test_other_thresholds_trace_nothing_and_are_read():
    def reaching(height):
        return lambda t, y: y[0, 0] - height

    low, high = torch.tensor(0.1).double(), torch.tensor(9.0).double()
    one, _ = compile_(reaching(low))
    other, inventory = compile_(reaching(high))
    assert one is other
    assert other.tensors(inventory)[0] is high
    number, _ = compile_(reaching(0.1))
    assert number is not one


def test_an_event_and_a_field_of_one_function_are_two_compilations():
    def row(t, y):  # a field broadcasts it over the state, an event has two values
        return torch.sin(y[0])

    y = state()
    field, _ = compile_field(row, StateLayout.of(y), y[0, 0], y, None)
    event, _ = compile_(row)
    assert (field.kind, event.kind) == ("field", "event")
    assert [made.tape.of_role("dy")[0].size for made in (field, event)] == [6, 2]


def refusal(event_fn, y=None):
    with pytest.raises(Untranslatable) as caught:
        compile_(event_fn, y)
    return caught.value.what


def test_what_has_no_sign_is_refused():
    assert "a float, not a tensor" in refusal(lambda t, y: 1.0)
    assert "torch.bool" in refusal(lambda t, y: y[0] > 0)
    assert "torch.int64" in refusal(lambda t, y: (y > 0).sum())
    assert "torch.complex128" in refusal(lambda t, y: torch.complex(y, y))
    assert "without elements" in refusal(lambda t, y: y[:0])
    with pytest.raises(Untranslatable, match="not a tensor"):
        flat_event(lambda t, y: None, StateLayout.of(state()))(torch.tensor(0.0), state())


def test_values_and_random_numbers_are_refused():
    assert "if y.sum() > 0" in refusal(_branching)
    assert "random" in refusal(lambda t, y: y + torch.rand(()))


def _branching(t, y):
    if y.sum() > 0:
        return y[0]
    return -y[0]


def test_half_precision_on_the_way_is_refused():
    assert "torch.float16" in refusal(lambda t, y: y.half().sum())


def test_an_event_that_changes_itself_or_the_state_is_refused():
    class Counting:
        def __init__(self):
            self.calls = 0

        def __call__(self, t, y):
            self.calls += 1
            return y[0, 0]

    assert "calls" in refusal(Counting())
    y = state()
    assert "changes a tensor" in refusal(lambda t, y: y.sub_(0.5), y)
    assert torch.equal(y, state())
