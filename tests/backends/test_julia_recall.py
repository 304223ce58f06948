"""Calls that come again are answered from what was found before: as right as the first time."""

from __future__ import annotations

import gc
import os
import threading
import types
import weakref
from functools import partial

import pytest
import torch
from torch import nn

import pysemi
from pysemi import api, recall
from pysemi.errors import ArgumentError, NonFiniteStateError, StepBudgetError
from tests.backends.test_julia_never_stale import counted
from tests.vector_fields import Flow, Spiral, times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

T = times(0.0, 0.4, 1.0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))

    def forward(self, t, y):
        return torch.tanh(y @ self.weight)

    def dynamics(self, t, y):
        return -torch.tanh(y @ self.weight)


def state(batch=3):
    return torch.linspace(-1, 1, 2 * batch, dtype=torch.float64).view(batch, 2)


@pytest.fixture
def posed(monkeypatch):
    recall.forget_calls()
    return counted(monkeypatch, api, "pose")


def gradients(solve, func, y0, params, t=T, **options):
    leaves = [x.detach().clone().requires_grad_() for x in (y0 if type(y0) is tuple else (y0,))]
    options = {"rtol": 1e-6, "atol": 1e-6, "backend": "julia", **options}
    y = solve(func, tuple(leaves) if type(y0) is tuple else leaves[0], t, **options)
    parts = y if isinstance(y, tuple) else (y,)
    found = torch.autograd.grad(sum((x**2).sum() for x in parts), [*leaves, *params])
    return [*(x.detach() for x in parts), *found]


def assert_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


ADJOINTS = ("backsolve", "interpolating", "gauss", "quadrature", "discrete")


@pytest.mark.parametrize("adjoint", [None, *ADJOINTS])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_the_third_call_is_recalled(adjoint, batch, posed):
    field, options = Net(), {"batch": batch}
    solve = pysemi.odeint
    if adjoint is not None:
        solve, options = pysemi.odeint_adjoint, {**options, "adjoint": adjoint}
    every = [gradients(solve, field, state(), [field.weight], **options) for _ in range(5)]
    assert len(posed) == 2
    for found in every[1:]:
        assert_equal(found, every[0])
    with torch.no_grad():
        field.weight.mul_(0.5)
    after = gradients(solve, field, state(), [field.weight], **options)
    other = Net()
    with torch.no_grad():
        other.weight.mul_(0.5)
    assert len(posed) == 2
    assert_equal(after, gradients(solve, other, state(), [other.weight], **options))
    # Other numbers all round.
    y0, t = 2 * state(), times(0.5, 0.1)
    found = gradients(solve, field, y0, [field.weight], t, **options)
    assert len(posed) == 3
    assert_equal(found, gradients(solve, other, y0, [other.weight], t, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"options": {"controller": "torchdiffeq"}},
        {"options": {"jump_t": times(0.5)}},
        {"options": {"norm": "rms", "max_num_steps": 500}},
        {"adjoint_options": {"norm": "seminorm"}},
        {"method": "Tsit5", "adjoint_method": "dopri5", "adjoint_options": {}},
        {"adjoint_rtol": 1e-5, "adjoint_atol": 1e-7},
        {"bridge": "compiled", "verify": "never"},
    ],
)
def test_options_are_part_of_the_question(options, posed):
    field = Net()
    solve = partial(gradients, pysemi.odeint_adjoint, field, state(), [field.weight])
    plain = [solve() for _ in range(3)][-1]
    every = [solve(**options) for _ in range(3)]
    assert len(posed) == 4
    assert_equal(every[2], every[0])
    assert_equal(solve(), plain)
    assert len(posed) == 4


def test_tuple_states_and_tensors_with_names(posed):
    field = Flow()
    y0 = (torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3), torch.zeros(2).double())
    solve = partial(gradients, pysemi.odeint_adjoint, field, y0, [field.weight])
    every = [solve() for _ in range(3)]
    every += [solve(adjoint_params=(field.weight,)) for _ in range(3)]
    assert len(posed) == 4
    for found in every[1:]:
        assert_equal(found, every[0])
    for _ in range(3):  # a list has no hash
        found = solve(rtol=[1e-6, 1e-6])
        assert all(torch.allclose(a, b) for a, b in zip(found, every[0], strict=True))
    assert len(posed) == 7


def test_functions_methods_and_partials(posed):
    net = Net()

    def function(t, y):
        return net(t, y)

    def scaled(scale, t, y):
        return scale * net(t, y)

    bound = partial(scaled, 2.0)
    for func in (function, lambda t, y: net.dynamics(t, y), bound):
        posed.clear()
        every = [gradients(pysemi.odeint, func, state(), [net.weight]) for _ in range(3)]
        assert len(posed) == 2
        assert_equal(every[2], every[0])
    posed.clear()
    # A bound method is another object each time.
    every = [gradients(pysemi.odeint, net.dynamics, state(), [net.weight]) for _ in range(3)]
    assert len(posed) == 2
    assert_equal(every[2], every[0])
    forward = gradients(pysemi.odeint, net.forward, state(), [net.weight])
    assert not torch.equal(forward[0], every[0][0])


class Slotted:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = torch.ones(2, dtype=torch.float64)

    def __call__(self, t, y):
        return -self.rate * y


class NoHash(Slotted):
    __slots__ = ("__weakref__",)

    def __eq__(self, other):
        return True

    __hash__ = None


def test_objects_that_cannot_be_held_weakly_or_hashed(posed):
    first, second = NoHash(), NoHash()
    second.rate = 2 * second.rate
    for func, count in ((Slotted(), 4), (first, 2), (second, 2)):
        posed.clear()
        every = [pysemi.odeint(func, state(), T, backend="julia") for _ in range(4)]
        assert len(posed) == count
        exact = torch.exp(-func.rate)
        assert all(torch.allclose(y[-1], exact * state()) for y in every)


def my_norm(y):
    return y.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        {"options": {"norm": my_norm}},
        {"rtol": torch.tensor(1e-6).double()},
        {"verify": "always"},
        {"bridge": "callback"},
        {"options": {"norm": pysemi.StateNorm([True])}},
        {"backend": "torch"},
    ],
)
def test_what_is_not_recalled(options, posed):
    field = Net()
    options = dict(options)
    y0 = options.pop("y0", state())
    every = [
        gradients(pysemi.odeint_adjoint, field, y0, [field.weight], **options) for _ in (1, 2, 3)
    ]
    assert len(posed) == 3
    assert_equal(every[2], every[0])


def test_an_event_is_not_recalled(posed):
    def decay(t, y):
        return -y

    for level in (0.8, 0.7, 0.6, 0.5):
        y0 = torch.ones(1, dtype=torch.float64)
        t, _ = pysemi.odeint(
            decay, y0, T[:2], event_fn=lambda t, y, level=level: y[0] - level, backend="julia"
        )
        assert torch.allclose(t, -torch.tensor(level).double().log())
    assert len(posed) == 4


def test_a_tensor_of_another_kind_is_not_taken_for_the_same(posed):
    field, y0 = Net(), state()
    for _ in range(3):
        expected = pysemi.odeint(field, y0, T, backend="julia")
    with pytest.raises(ArgumentError, match="floating point"):
        pysemi.odeint(field, y0.long(), T, backend="julia")
    with pytest.raises(ArgumentError, match="is a ndarray"):
        pysemi.odeint(field, y0.numpy(), T, backend="julia")
    assert pysemi.odeint(field, y0[:1], T, backend="julia").shape == (3, 1, 2)
    assert torch.equal(pysemi.odeint(field, y0.clone(), T, backend="julia"), expected)


def test_times_are_looked_at_each_time(posed):
    field, t = Net(), T.clone()
    for _ in range(3):
        pysemi.odeint(field, state(), t, backend="julia")
    for value, message in ((0.4, "must not repeat"), (torch.nan, "not finite"), (0.1, "goes from")):
        t[2] = value
        with pytest.raises(ArgumentError, match=message):
            pysemi.odeint(field, state(), t, backend="julia")
    with pytest.raises(ArgumentError, match="has shape"):
        pysemi.odeint(field, state(), t.view(3, 1), backend="julia")
    t[2] = 2.0
    later = pysemi.odeint(field, state(), t, backend="julia")
    assert torch.equal(later, pysemi.odeint(Net(), state(), t, backend="julia"))


def test_times_of_jumps_are_looked_at_each_time(posed):
    class Jumping(nn.Module):
        def forward(self, t, y):
            return torch.where(t < 0.5, 1.0, -1.0) * torch.ones_like(y)

    field, jump = Jumping(), times(0.5)
    for _ in range(3):
        options = {"jump_t": jump}
        with pysemi.record() as solves:
            pysemi.odeint(field, state(), T, options=options, backend="julia", rtol=1e-3)
    assert len(posed) == 2
    assert solves.forward[0].rejected == 0
    jump.fill_(0.7)
    with pysemi.record() as solves:
        pysemi.odeint(field, state(), T, options=options, backend="julia", rtol=1e-3)
    assert len(posed) == 3
    assert 0.7 in solves.forward[0].step_times.round(9)


def test_negated_memory_is_read_as_torch_reads_it():
    y0 = torch.tensor([1 + 2j], dtype=torch.complex128).conj().imag
    assert y0.is_neg()
    assert y0.is_contiguous()
    y = pysemi.odeint(lambda t, y: -y, y0, T, backend="julia")
    assert torch.allclose(y, -2 * torch.exp(-T).unsqueeze(1))


def test_failures_do_not_stick(posed):
    field = Net()
    for _ in range(4):
        with pytest.raises(StepBudgetError):
            pysemi.odeint(
                field,
                state(),
                T,
                backend="julia",
                rtol=1e-9,
                atol=1e-12,
                options={"max_num_steps": 2},
            )
    pysemi.odeint(field, state(), T, backend="julia", rtol=1e-9, atol=1e-12)

    class Blows(nn.Module):
        def forward(self, t, y):
            return y**2

    blows = Blows()
    for scale in (0.1, 0.1, 0.1, 1e200, 0.1):
        y0 = scale * torch.ones(2, dtype=torch.float64)
        if scale > 1:
            with pytest.raises(pysemi.errors.SolveError):
                pysemi.odeint(blows, y0, T, backend="julia")
        else:
            y = pysemi.odeint(blows, y0, T, backend="julia")
            assert torch.allclose(y[-1], y0 / (1 - y0 * T[-1]))


def test_what_autograd_wants_is_part_of_the_question(posed):
    field = Net()
    for _ in range(3):
        with torch.no_grad():
            assert not pysemi.odeint(field, state(), T, backend="julia").requires_grad
    for _ in range(3):
        assert pysemi.odeint(field, state(), T, backend="julia").requires_grad
    assert len(posed) == 4
    field.requires_grad_(False)
    for _ in range(3):
        assert not pysemi.odeint(field, state(), T, backend="julia").requires_grad
    with torch.inference_mode():
        y = [pysemi.odeint(field, state(), T, backend="julia") for _ in range(3)]
    assert torch.equal(y[0], y[2])


def test_the_environment_is_asked_each_time(posed, monkeypatch):
    field = Net()
    monkeypatch.delenv("PYSEMI_BACKEND", raising=False)
    for _ in range(3):
        with pysemi.record() as solves:
            pysemi.odeint(field, state(), T)
        assert solves.forward[0].backend == "julia"
    assert len(posed) == 2
    monkeypatch.setenv("PYSEMI_BACKEND", "torch")
    with pysemi.record() as solves:
        pysemi.odeint(field, state(), T)
    assert solves.forward[0].backend == "torch"


def test_nothing_is_kept_alive(posed):
    def encode():
        leaf = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        return leaf, leaf * 2

    field = Net()
    graphs, states = [], []
    for _ in range(4):
        leaf, y0 = encode()
        graphs.append(weakref.ref(leaf))
        states.append(weakref.ref(y0))
        pysemi.odeint_adjoint(field, y0, T, backend="julia")[-1].sum().backward()
        del leaf, y0
    gc.collect()
    assert len(posed) == 2
    assert not any(ref() is not None for ref in (*graphs, *states))
    gone, weight = weakref.ref(field), weakref.ref(field.weight)
    assert recall._functions
    del field
    gc.collect()
    assert gone() is None
    assert weight() is None
    assert not recall._functions


def test_a_method_that_refers_to_its_object_does_not_keep_it_alive(posed):
    def attached():
        net = Net()
        net.dynamics = types.MethodType(lambda self, t, y: torch.tanh(y @ net.weight), net)
        return net

    net = attached()
    every = [gradients(pysemi.odeint, net.dynamics, state(), [net.weight]) for _ in range(3)]
    assert_equal(every[2], every[0])
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_no_more_is_known_than_there_is_room_for(posed):
    fields = [Net() for _ in range(recall.FUNCTIONS_KNOWN + 5)]
    for field in fields:
        pysemi.odeint(field, state(1), T[:2], backend="julia", rtol=1e-2, atol=1e-2)
    assert len(recall._functions) == recall.FUNCTIONS_KNOWN
    for batch in range(1, recall.QUESTIONS_KNOWN + 5):
        for _ in range(2):
            pysemi.odeint(fields[-1], state(batch), T[:2], backend="julia", rtol=1e-2, atol=1e-2)
    known = recall._functions[id(fields[-1])][1].known
    assert len(known) == recall.QUESTIONS_KNOWN


def test_what_changes_at_each_call_is_not_watched_for_ever(posed, monkeypatch):
    watches = counted(monkeypatch, recall, "watch")
    field = Net()
    for step in range(30):
        field.note = float(step)
        gradients(pysemi.odeint, field, state(), [field.weight])
    assert len(posed) == 30
    assert len(watches) <= recall.MOST_CHANGES + 1


def test_a_forked_process_knows_nothing():
    recall.forget_calls()
    field = Net()
    for _ in range(3):
        pysemi.odeint(field, state(), T, backend="julia")
    assert recall._functions
    child = os.fork()
    if child == 0:
        os._exit(len(recall._functions))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_threads_that_train_one_field(posed):
    field = Spiral()
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    params = list(field.parameters())
    expected = gradients(pysemi.odeint_adjoint, field, y0, params, adjoint="discrete")
    other = gradients(pysemi.odeint_adjoint, field, 2 * y0, params, adjoint="discrete")
    wrong = []

    def work(scale, right):
        for _ in range(15):
            found = gradients(pysemi.odeint_adjoint, field, scale * y0, params, adjoint="discrete")
            if not all(torch.equal(a, b) for a, b in zip(found, right, strict=True)):
                wrong.append(scale)

    threads = [threading.Thread(target=work, args=args) for args in ((1, expected), (2, other))]
    for thread in threads:
        thread.start()
    work(1, expected)
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(posed) <= 4


def test_cotangents_that_are_not_finite_come_through(posed):
    field = Net()
    for _ in range(4):
        y0 = state().requires_grad_()
        y = pysemi.odeint_adjoint(field, y0, T, backend="julia", adjoint="discrete")
        weight = torch.ones_like(y)
        weight[1, 0, 0] = torch.inf
        found = torch.autograd.grad(y, [y0, field.weight], weight)
        assert all(x.isnan().all() for x in found)
    y = pysemi.odeint_adjoint(field, y0, T, backend="julia", adjoint="discrete")
    with pytest.raises(NonFiniteStateError):
        torch.autograd.grad(y, [y0, field.weight], torch.full_like(y, 1.7e308))
