"""A watch holds as long as another inventory would be the same, and not a moment longer."""

from __future__ import annotations

import gc
import math
import sys
import timeit
import types
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pysemi.compiler.inventory import take_inventory
from pysemi.compiler.watch import watch
from tests.compiler.models import MODELS, build

SCALE = 2.0
TABLE = {"rate": 1.0}


class Base(nn.Module):
    depth = 1


class Slotted:
    __slots__ = ("rate", "unset")

    def __init__(self):
        self.rate = 1.0


@dataclass
class Settings:
    rate: float = 1.0


class Plain:
    def __init__(self):
        self.rate = 1.0


def factor(y, power=1.0, *, offset=0.0):
    return y * power + offset


class Field(Base):
    limit = 3.0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = 1.5
        self.names = ["a", "b"]
        self.queue = deque([1.0])
        self.settings = {"depth": 2}
        self.ordered = OrderedDict(first=1.0)
        self.slotted, self.data, self.plain = Slotted(), Settings(), Plain()
        self.partial = partial(factor, offset=2.0)
        rate = 0.5

        def closure(y):
            return rate * y

        def set_rate(value):
            nonlocal rate
            rate = value

        self.closure, self.set_rate = closure, set_rate

    def forward(self, t, y):
        return self.scale * SCALE * factor(y) + self.limit + TABLE["rate"] * math.pi


@pytest.fixture
def field():
    return Field()


def test_it_holds_as_long_as_nothing_changes(field):
    seen = watch((field, tuple(field.parameters())), field)
    assert seen is not None
    for _ in range(3):
        assert seen.holds(field)
    with torch.no_grad():
        field.layer.weight.add_(1.0)  # values are not its affair
    field.layer.weight.data = torch.zeros(4, 2)
    assert seen.holds(field)


CHANGES = {
    "float": lambda f: setattr(f, "scale", 2.0),
    "float to an int": lambda f: setattr(f, "scale", 1),
    "mode": lambda f: f.eval(),
    "list grows": lambda f: f.names.append("c"),
    "list entry": lambda f: f.names.__setitem__(0, "z"),
    "list reversed": lambda f: f.names.reverse(),
    "deque": lambda f: f.queue.append(2.0),
    "dict entry": lambda f: f.settings.update(depth=3),
    "dict key": lambda f: f.settings.update(width=3),
    "dict renamed": lambda f: f.settings.update(breadth=f.settings.pop("depth")),
    "ordered dict": lambda f: f.ordered.update(second=1.0),
    "dict turned over": lambda f: f._parameters.update(own=nn.Parameter(torch.ones(1))),
    "submodule": lambda f: setattr(f, "layer", nn.Linear(2, 5)),
    "submodule of the same kind": lambda f: setattr(f, "layer", nn.Linear(2, 4)),
    "new attribute": lambda f: setattr(f, "extra", 1.0),
    "attribute gone": lambda f: delattr(f, "scale"),
    "attribute renamed": lambda f: vars(f).update(scales=vars(f).pop("scale")),
    "weight replaced": lambda f: setattr(f.layer, "weight", nn.Parameter(torch.ones(4, 2))),
    "buffer replaced": lambda f: setattr(f.norm, "running_mean", torch.zeros(4)),
    "buffer reshaped": lambda f: f.norm.running_mean.resize_(2, 2),
    "weight's shape": lambda f: setattr(f.layer.weight, "data", torch.ones(8, 2)),
    "dtype": lambda f: f.double(),
    "requires_grad": lambda f: f.layer.bias.requires_grad_(False),
    "bias gone": lambda f: setattr(f.layer, "bias", None),
    "hook": lambda f: f.layer.register_forward_hook(lambda *a: None),
    "hooks replaced": lambda f: setattr(f.layer, "_forward_hooks", OrderedDict()),
    "class of the object": lambda f: setattr(f, "__class__", Base),
    "class of a part": lambda f: setattr(f.layer, "__class__", nn.Module),
    "its dict": lambda f: setattr(f.plain, "__dict__", {"rate": 1.0}),
    "slot": lambda f: setattr(f.slotted, "rate", 2.0),
    "slot set": lambda f: setattr(f.slotted, "unset", 2.0),
    "dataclass": lambda f: setattr(f.data, "rate", 2.0),
    "object": lambda f: setattr(f.plain, "rate", 2.0),
    "partial": lambda f: f.partial.keywords.update(offset=1.0),
    "closure": lambda f: f.set_rate(0.25),
    "function's attribute": lambda f: setattr(f.closure, "note", 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_sees_what_changes(change, field):
    seen = watch(field, field)
    assert seen.holds(field)
    CHANGES[change](field)
    assert not seen.holds(field)


def other(y, power=2.0, *, offset=1.0):
    return -y


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (sys.modules[__name__], "SCALE", 3.0),
        (sys.modules[__name__], "TABLE", {"rate": 1.0}),
        (sys.modules[__name__], "factor", other),
        (factor, "__code__", other.__code__),
        (factor, "__defaults__", (3.0,)),
        (factor, "__kwdefaults__", {"offset": 1.0}),
        (Field, "limit", 4.0),
        (Base, "depth", 2),
        (Field, "forward", lambda self, t, y: y),
        (Field, "added", 1.0),
    ],
)
def test_it_sees_classes_functions_and_globals(target, name, value, field, monkeypatch):
    seen = watch(field, field)
    assert seen.holds(field)
    monkeypatch.setattr(target, name, value, raising=False)
    assert not seen.holds(field)
    monkeypatch.undo()
    assert name == "added" or seen.holds(field)


def test_it_sees_a_global_that_was_not_there(field, monkeypatch):
    def looks(t, y):
        return abs(y)

    seen = watch(looks, looks)
    monkeypatch.setitem(looks.__globals__, "abs", lambda y: -y)  # hides the built-in function
    assert not seen.holds(looks)


def test_a_global_dict_is_looked_into(field, monkeypatch):
    seen = watch(field, field)
    monkeypatch.setitem(TABLE, "rate", 2.0)
    assert not seen.holds(field)


def test_other_modules_constants(monkeypatch):
    module = types.ModuleType("someones_constants")
    module.RATE, module.OTHER = 1.0, 1.0
    namespace = {"constants": module, "__name__": "someones_code"}
    exec("def field(t, y):\n    return constants.RATE * y", namespace)
    function = namespace["field"]
    seen = watch(function, function)
    module.OTHER = 2.0
    assert seen.holds(function)
    module.RATE = 2.0
    assert not seen.holds(function)


def test_mro():
    class First:
        rate = 1.0

    class Second:
        rate = 2.0

    class Callable(First):
        def __call__(self, t, y):
            return self.rate * y

    one = Callable()
    seen = watch(one, one)
    assert seen.holds(one)
    Callable.__bases__ = (Second,)
    assert not seen.holds(one)


def test_a_cell_that_is_emptied():
    rate = 1.0

    def function(t, y):
        return rate * y  # noqa: F821 (that is the point)

    seen = watch(function, function)
    assert seen.holds(function)
    del rate
    assert not seen.holds(function)


@pytest.mark.parametrize("name", ["array", "set", "result"])
def test_what_cannot_be_watched(name, field):
    graph = torch.ones(2, requires_grad=True) * 2  # held, it would keep what it came from
    field.extra = {"array": np.ones(2), "set": {1.0}, "result": graph}[name]
    assert watch(field, field) is None


def test_what_is_too_much_is_not_watched(field):
    field.names = [float(i) for i in range(30_000)]
    assert watch(field, field) is None


def refers_by_attribute(f):
    f.plain.owner = f


def refers_by_method(f):
    f.method = f.forward


def refers_by_closure(f):
    f.own = lambda t, y: f.scale * y


def refers_by_class(f):
    class Owned(Field):
        instance = f

    f.plain = Owned()


@pytest.mark.parametrize(
    "refer", [refers_by_attribute, refers_by_method, refers_by_closure, refers_by_class]
)
def test_it_keeps_no_root_alive(refer, field):
    refer(field)
    assert watch(field, field) is None


def test_the_root_dies_while_it_is_watched():
    field = Field()
    seen = watch((field, tuple(field.parameters())), field)
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None
    assert seen.tensors

    def build():
        rate = torch.ones(2)
        return lambda t, y: rate * y

    function = build()
    seen = watch(function, function)
    assert seen.holds(function)
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


def test_a_method_s_object_is_watched(field):
    seen = watch((field.forward,), field)
    assert seen.holds(field)
    field.scale = 2.0
    assert not seen.holds(field)


@pytest.mark.parametrize("name", MODELS)
def test_where_it_holds_an_inventory_is_the_same(name):
    model = build(name)
    seen, before = watch(model.field, model.field), take_inventory(model.field)
    if seen is None:  # then nobody asks it
        return
    assert seen.holds(model.field)
    model.field(torch.zeros((), dtype=torch.float64), model.y)
    after = take_inventory(model.field)
    if seen.holds(model.field):
        assert after.key == before.key
        assert all(x is y for x, y in zip(after.tensors, before.tensors, strict=True))


def test_most_models_can_be_watched():
    models = [build(name).field for name in MODELS]
    assert sum(watch(field, field) is not None for field in models) > 0.8 * len(models)


def test_to_ask_it_takes_a_fraction_of_an_inventory():
    field = nn.Sequential(*[nn.Linear(4, 4) for _ in range(10)])
    seen = watch(field, field)

    def duration(act):
        return min(timeit.repeat(act, number=200, repeat=7))

    assert duration(lambda: seen.holds(field)) < 0.6 * duration(lambda: take_inventory(field))
