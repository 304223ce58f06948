"""An inventory is equal where the code would do the same, and differs where it would not."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pysemi.compiler.inventory import take_inventory
from pysemi.compiler.untranslatable import Untranslatable
from tests.compiler.models import build

SCALE = 2.0
TABLE = {"rate": 1.0}


def key(field):
    return take_inventory(field).key


class Field(nn.Module):
    limit = 3.0

    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(2, width)
        self.scale = 1.0
        self.names = ["a", "b"]
        self.settings = {"depth": 2}

    def forward(self, t, y):
        return self.scale * SCALE * y + self.limit


def test_two_objects_of_one_structure_are_equal_and_their_tensors_pair_up():
    first, second = Field(), Field()
    a, b = take_inventory(first), take_inventory(second)
    assert a.key == b.key
    assert hash(a.key) == hash(b.key)
    assert a.tensors[0] is first.layer.weight
    assert b.tensors[0] is second.layer.weight
    assert a.paths == b.paths


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f, "scale", 2.0),
        lambda f: setattr(f, "scale", 1),
        lambda f: setattr(f, "scale", -0.0) or setattr(f, "scale", 0.0),
        lambda f: f.eval(),
        lambda f: f.names.append("c"),
        lambda f: f.settings.update(depth=3),
        lambda f: f.settings.update(width=3),
        lambda f: setattr(f, "layer", nn.Linear(2, 5)),
        lambda f: setattr(f, "layer", nn.Identity()),
        lambda f: setattr(f, "extra", torch.zeros(1)),
        lambda f: f.layer.weight.requires_grad_(False),
        lambda f: f.double(),
        lambda f: f.layer.register_forward_hook(lambda *a: None),
        lambda f: setattr(f, "forward", lambda t, y: y),
        lambda f: setattr(f.layer, "bias", None),
    ],
)
def test_what_a_forward_can_read_is_seen(change):
    field = Field()
    before = key(field)
    change(field)
    assert key(field) != before


def test_values_of_tensors_do_not_count():
    field = Field()
    before = key(field)
    with torch.no_grad():
        field.layer.weight.add_(1)
    assert key(field) == before


def test_class_attributes_globals_and_module_constants_are_seen(monkeypatch):
    field = Field()
    before = key(field)
    monkeypatch.setattr(Field, "limit", 4.0)
    assert key(field) != before
    monkeypatch.undo()
    assert key(field) == before
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert key(field) != before


def test_closures_defaults_partials_and_methods_are_followed():
    def make(rate, weight, default=1.0):
        def field(t, y, power=default):
            return rate * (y @ weight) ** power

        return field

    weight = torch.randn(2, 2)
    base = take_inventory(make(1.0, weight))
    assert any(x is weight for x in base.tensors)
    assert base.key == key(make(1.0, torch.randn(2, 2)))
    assert base.key != key(make(2.0, weight))
    assert base.key != key(make(1.0, weight, default=2.0))
    assert key(partial(make(1.0, weight), power=3)) != key(partial(make(1.0, weight), power=2))

    class Owner:
        def __init__(self, rate):
            self.rate = rate

        def field(self, t, y):
            return self.rate * y

    assert key(Owner(1.0).field) == key(Owner(1.0).field)
    assert key(Owner(1.0).field) != key(Owner(2.0).field)


def test_torch_s_own_functions_are_told_apart():
    def field(function):
        return lambda t, y: function(y, 2.0)

    # Each pair is of one decorator, and so of one code.
    for one, other in (
        (torch.Tensor.__rsub__, torch.Tensor.__rmod__),
        (nn.functional.max_pool1d, nn.functional.adaptive_max_pool1d),
    ):
        assert one.__code__ is other.__code__
        assert key(field(one)) != key(field(other))
        assert key(field(one)) == key(field(one))


def test_numpy_arrays_count_with_their_values():
    def field(array):
        return lambda t, y: y * float(array[0])

    assert key(field(np.ones(3))) == key(field(np.ones(3)))
    assert key(field(np.ones(3))) != key(field(np.zeros(3)))


def test_a_tensor_shared_and_two_equal_tensors_are_not_the_same():
    shared, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert key(nn.ModuleList([shared, shared])) != key(nn.ModuleList([shared, other]))


def test_cycles_end():
    field = Field()
    field.names.append(field)
    field.me = field
    assert key(field) == key(field)


def test_nan_equals_itself_and_zero_knows_its_sign():
    def field(number):
        return lambda t, y: y * number

    assert key(field(math.nan)) == key(field(float("nan")))
    assert key(field(0.0)) != key(field(-0.0))
    assert key(field(1)) != key(field(True))


def test_changes_are_named():
    field = Field()
    before = take_inventory(field)
    field.scale = 5.0
    assert before.changes(take_inventory(field)) == [".scale"]


def test_a_field_that_holds_a_data_set_is_not_looked_through():
    field = Field()
    field.samples = [[float(i)] for i in range(30_000)]
    with pytest.raises(Untranslatable, match="samples"):
        take_inventory(field)


def test_taking_it_is_quick():
    import time

    field = build("symplectic-1").field
    take_inventory(field)
    began = time.perf_counter()
    for _ in range(50):
        take_inventory(field)
    # 0.1 ms was measured; ten times that would be felt beside a solve of some ms.
    assert (time.perf_counter() - began) / 50 < 2e-3
