"""Whatever the user changes between two solves, the next one is of what is there now."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import pysemi
from pysemi import api
from pysemi.backends.julia import verification
from pysemi.backends.julia.bridge import forget_warnings
from pysemi.backends.julia.fields import CompiledField
from pysemi.compiler import compiled, making
from pysemi.errors import ArgumentError, BridgeWarning, CompileError
from tests.backends.test_julia import gradients
from tests.vector_fields import times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

GLOBAL_RATE = 0.5
T = times(0.0, 0.5, 1.0)


class Field(nn.Module):
    """Reads all that a forward can read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 8).double()
        self.last = nn.Linear(8, 2).double()
        self.drop = nn.Dropout(0.0)
        self.norm = nn.BatchNorm1d(8).double().eval()
        self.register_buffer("shift", torch.full((2,), 0.1, dtype=torch.float64))
        self.scale = 1.0
        self.is_odd = False
        self.parts = [1.0, 2.0]
        rate = 0.3

        def closure(y):
            return rate * y

        def set_rate(value):
            nonlocal rate
            rate = value

        self.closure, self.set_rate = closure, set_rate

    def forward(self, t, y):
        h = self.norm(torch.tanh(self.first(y)))
        dy = self.scale * self.last(self.drop(h)) + self.shift - GLOBAL_RATE * y
        dy = dy + self.closure(y) + self.parts[0] * torch.sin(t)
        return -dy if self.is_odd else dy


def swap(field):
    field.last = nn.Sequential(nn.Tanh(), nn.Linear(8, 2).double())


def reset(field):
    torch.manual_seed(5)
    field.first.reset_parameters()


def replace_weight(field):
    field.first.weight = nn.Parameter(0.5 * field.first.weight.detach())


def change_in_place(field):
    with torch.no_grad():
        field.last.weight.mul_(-0.7)


def change_by_data(field):
    field.last.weight.data = 0.3 * field.last.weight.data


def change_global(field):
    globals()["GLOBAL_RATE"] = 0.9


def replace_buffer(field):
    field.shift = torch.full((2,), -0.4, dtype=torch.float64)


def change_running_mean(field):
    field.norm.running_mean.add_(0.3)


def patch_forward(field):
    field.forward = lambda t, y: -2.0 * y * field.first.weight.sum()


CHANGES = {
    "a float attribute": lambda field: setattr(field, "scale", 2.5),
    "a flag": lambda field: setattr(field, "is_odd", True),
    "an entry of a list": lambda field: field.parts.__setitem__(0, -1.0),
    "a closure's variable": lambda field: field.set_rate(-0.6),
    "a global variable": change_global,
    "a swapped submodule": swap,
    "weights set anew": reset,
    "a weight that is another object": replace_weight,
    "a weight changed in place": change_in_place,
    "a weight changed by its data": change_by_data,
    "a buffer replaced": replace_buffer,
    "a buffer changed in place": change_running_mean,
    "requires_grad": lambda field: field.first.weight.requires_grad_(False),
    "a hook": lambda field: field.last.register_forward_hook(lambda m, args, out: 2 * out),
    "a forward of the object's own": patch_forward,
    "weights changed in place by their data": lambda field: [
        p.data.mul_(0.5) for p in field.parameters()
    ],
}


@pytest.fixture(autouse=True)
def global_rate():
    yield
    globals()["GLOBAL_RATE"] = 0.5


def both(field, y0, **options):
    """Julia's and torch's solution and gradients; those of y0, t and the parameters."""
    wanted = [p for p in field.parameters() if p.requires_grad]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it stays compiled
        ours = gradients(field, y0, T, "julia", **options)
    theirs = gradients(field, y0, T, "torch")
    assert ours[2].forward[0].bridge == "compiled"
    assert len(ours[1]) == 2 + len(wanted)
    return ours, theirs


def assert_equal(ours, theirs):
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        assert (a is None) == (b is None) or (a is not None and not a.any())
        if a is not None and b is not None:
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize("solves", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_solves(change, solves, monkeypatch):
    posed = counted(monkeypatch, api, "pose")
    field, y0 = Field(), torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    for _ in range(solves):
        before, expected = both(field, y0)
        assert_equal(before, expected)
    # On torch each time; on Julia the third call finds what the second left.
    assert len(posed) == solves + min(solves, 2)
    CHANGES[change](field)
    after, expected = both(field, y0)
    assert_equal(after, expected)
    if change != "requires_grad":
        assert not torch.allclose(after[0][-1], before[0][-1])


def counted(monkeypatch, module, name):
    """An entry for each call of a function from now on."""
    calls = []
    original = getattr(module, name)

    def call(*arguments, **options):
        calls.append(name)
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, call)
    return calls


def test_a_change_between_forward_and_backward_is_torch_s_affair_too():
    field = Field()
    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    y = pysemi.odeint_adjoint(field, y0, T, backend="julia")
    change_in_place(field)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("adjoint", ["backsolve", "gauss", "discrete"])
def test_backward_is_with_the_weights_of_its_own_forward(adjoint, monkeypatch):
    copies = 0
    copy = CompiledField.bind

    def counted(*arguments):
        nonlocal copies
        copies += 1
        copy(*arguments)

    def solved(field):
        y0 = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
        return pysemi.odeint_adjoint(field, y0, T, adjoint=adjoint, backend="julia")[-1].sum()

    def gradient(field):
        return [p.grad.clone() for p in field.parameters() if p.grad is not None]

    first, second = Field(), Field()  # of one structure, so of one field in Julia
    with torch.no_grad():
        second.last.weight.mul_(3.0)
    alone = []
    for field in (first, second):
        solved(field).backward()
        alone.append(gradient(field))
        field.zero_grad()
    monkeypatch.setattr(CompiledField, "bind", counted)
    solved(first).backward()  # what forward read lies there still
    assert copies == 1
    first.zero_grad()
    (solved(first) + solved(second)).backward()  # backward in turn: one of the two lies there
    assert copies == 1 + 2 + 1
    for field, expected in zip((first, second), alone, strict=True):
        found = gradient(field)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])


def test_train_and_eval():
    field, y0 = Field(), torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    assert_equal(*both(field, y0))
    forget_warnings()
    field.norm.train()  # counts its calls
    with pytest.warns(BridgeWarning, match=r"changes the tensor norm\.num_batches_tracked"):
        pysemi.odeint(field, y0, T, backend="julia", rtol=1e-2, atol=1e-2)
    field.norm.eval()
    assert_equal(*both(field, y0))


def test_dtype():
    field, y0 = Field(), torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    assert_equal(*both(field, y0))
    field.float()
    found = [
        pysemi.odeint(field, y0.float(), T, backend=backend, rtol=1e-5, atol=1e-5)
        for backend in ("julia", "torch")
    ]
    assert found[0].dtype == torch.float32
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4)
    field.double()
    assert_equal(*both(field, y0))


def test_a_smaller_last_batch_compiles_once_and_for_all(monkeypatch):
    compiled.forget_compilations()
    traced = []
    original = making.trace_joint
    monkeypatch.setattr(
        making, "trace_joint", lambda *args: traced.append(args[2].shape) or original(*args)
    )
    built = []
    build = CompiledField.__init__
    monkeypatch.setattr(CompiledField, "__init__", lambda *args: built.append(args) or build(*args))
    field, y0 = Field(), torch.linspace(-1, 1, 14, dtype=torch.float64).view(7, 2)
    for _ in range(3):
        for batch in (y0, y0[:4]):
            assert_equal(*both(field, batch))
    assert traced == [(7, 2), (4, 2)]
    assert len(built) <= 2  # fewer where another test has left its tape


@pytest.mark.parametrize(("verify", "evaluations"), [("first", 2), ("always", 6), ("never", 0)])
def test_when_what_was_compiled_is_held_against_torch(verify, evaluations, monkeypatch):
    compiled.forget_compilations()
    compared = []
    original = verification.evaluate_joint
    monkeypatch.setattr(
        verification, "evaluate_joint", lambda *args: compared.append(1) or original(*args)
    )
    field, y0 = Field(), torch.ones(2, 2, dtype=torch.float64)
    for _ in range(3):
        gradients(field, y0, T, "julia", verify=verify)
    # At the start, and at a point near it.
    assert len(compared) == evaluations


def test_a_verification_that_fails_later_is_acted_upon(monkeypatch):
    class Unseen(nn.Module):
        """Reads what no inventory shows: a constant of torch's."""

        def forward(self, t, y):
            return y * torch.rate_of_a_test

    monkeypatch.setattr(torch, "rate_of_a_test", -1.0, raising=False)
    options = dict(backend="julia", bridge="compiled", adjoint_params=())
    y0 = torch.ones(2, dtype=torch.float64)
    compiled.forget_compilations()
    pysemi.odeint_adjoint(Unseen(), y0, T, verify="always", **options)
    monkeypatch.setattr(torch, "rate_of_a_test", 1.0)
    # The first verification does not find it.
    pysemi.odeint_adjoint(Unseen(), y0, T, **options)
    with pytest.raises(CompileError, match="differs from PyTorch's"):
        pysemi.odeint_adjoint(Unseen(), y0, T, verify="always", **options)
    with pytest.raises(CompileError, match="differs from PyTorch's"):  # it is remembered
        pysemi.odeint_adjoint(Unseen(), y0, T, verify="never", **options)
    compiled.forget_compilations()


def test_a_verification_that_fails_is_acted_upon_by_calls_that_came_before(monkeypatch):
    class Unseen(nn.Module):
        def forward(self, t, y):
            return y * torch.rate_of_a_test

    monkeypatch.setattr(torch, "rate_of_a_test", -1.0, raising=False)
    options = dict(backend="julia", bridge="compiled", adjoint_params=())
    y0, field = torch.ones(2, dtype=torch.float64), Unseen()
    compiled.forget_compilations()
    for _ in range(3):
        pysemi.odeint_adjoint(field, y0, T, **options)
    monkeypatch.setattr(torch, "rate_of_a_test", 1.0)
    with pytest.raises(CompileError, match="differs from PyTorch's"):
        pysemi.odeint_adjoint(Unseen(), y0, T, verify="always", **options)
    with pytest.raises(CompileError, match="differs from PyTorch's"):
        pysemi.odeint_adjoint(field, y0, T, **options)
    compiled.forget_compilations()


@pytest.mark.parametrize("verify", ["sometimes", None, True])
def test_another_word_is_refused(verify):
    with pytest.raises(ArgumentError, match=r"verify: .* is not one of 'first', 'always', 'never'"):
        pysemi.odeint(Field(), torch.ones(2, 2).double(), T, backend="julia", verify=verify)
