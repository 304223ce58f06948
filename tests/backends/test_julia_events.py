"""A compiled event function ends a solve where the callback and torchdiffeq end it."""

from __future__ import annotations

import gc
import itertools
import threading
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import pysemi
from pysemi.backends.julia.bridge import forget_warnings
from pysemi.backends.julia.verification import ROUNDINGS, first_difference
from pysemi.compiler.compiled import forget_compilations
from pysemi.errors import ArgumentError, BridgeWarning, CompileError
from tests.vector_fields import Decay, Flow, Spiral, times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

ROUTES = {
    "torch": dict(backend="torch"),
    "callback": dict(backend="julia", bridge="callback"),
    "compiled": dict(backend="julia", bridge="compiled"),
}


def scalar(x, dtype=torch.float64, **options):
    return torch.tensor(x, dtype=dtype, **options)


def until(event_fn, *, field=None, y0=None, t0=0.0, route="compiled", **options):
    """The time of the event and the state there."""
    y0 = torch.ones(1, dtype=torch.float64) if y0 is None else y0
    with torch.no_grad():
        event_t, y = pysemi.odeint_event(
            Decay() if field is None else field,
            y0,
            scalar(t0),
            event_fn=event_fn,
            odeint_interface=pysemi.odeint_adjoint,
            **{"rtol": 1e-9, "atol": 1e-9, **ROUTES[route], **options},
        )
    return float(event_t), y


def everything(field, y0, event_fn, route, *, t0=0.0, **options):
    """Time, state and gradients of a loss of both, flat."""
    dtype = (y0[0] if isinstance(y0, tuple) else y0).dtype
    for parameter in field.parameters():
        parameter.grad = None
    start = tuple(x.clone().requires_grad_() for x in (y0 if isinstance(y0, tuple) else (y0,)))
    t0 = scalar(t0, dtype, requires_grad=True)
    event_t, y = pysemi.odeint_event(
        field,
        start if isinstance(y0, tuple) else start[0],
        t0,
        event_fn=event_fn,
        odeint_interface=pysemi.odeint_adjoint,
        **options,
        **ROUTES[route],
    )
    ends = [x[-1] for x in (y if isinstance(y, tuple) else (y,))]
    (event_t + sum((x**2).sum() for x in ends)).backward()
    assert event_t.dtype == dtype
    grads = [x.grad for x in (*start, t0, *field.parameters())]
    parts = [event_t, *ends, *grads]
    return torch.cat([x.detach().reshape(-1) for x in parts])


class Falling(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(9.8, dtype=dtype))

    def forward(self, t, y):
        return y[1], -self.gravity * torch.ones_like(y[1])


def hits(t, y):
    return torch.stack([y[1] + 100.0, y[0] - 0.2, t - 50.0])


@pytest.mark.parametrize("reverse_time", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tuple_state_and_several_values_by_every_route(dtype, reverse_time):
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    y0 = (scalar(1.0, dtype), scalar(-0.5 if reverse_time else 0.5, dtype))
    found = {
        route: everything(
            Falling(dtype), y0, hits, route, rtol=tolerance, atol=tolerance,
            reverse_time=reverse_time,
        )
        for route in ROUTES
    }  # fmt: skip
    assert float(found["torch"][0]) * (-1 if reverse_time else 1) > 0.1
    bound = dict(rtol=1e-6, atol=1e-8) if dtype == torch.float64 else dict(rtol=2e-3, atol=2e-4)
    assert torch.allclose(found["compiled"], found["torch"], **bound)
    close = dict(rtol=1e-10, atol=1e-12) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["compiled"], found["callback"], **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_perceptron_ends_at_a_surface_by_every_route(dtype):
    normal = torch.tensor([1.0, 0.5], dtype=dtype)
    field, y0 = Spiral(dtype=dtype), torch.tensor([[0.5, -1.0], [1.0, 0.3]], dtype=dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-6

    def surface(t, y):
        return (y @ normal).sum() - 1.2 - 0.1 * t

    expected, *others = [
        everything(field, y0, surface, route, rtol=tolerance, atol=tolerance) for route in ROUTES
    ]
    bound = (1e-7 if dtype == torch.float64 else 5e-4) * float(expected.abs().max())
    for other in others:
        assert torch.allclose(other, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("route", ["compiled", "callback"])
def test_the_first_value_to_change_sign_ends_the_solve(route):
    event_t, _ = until(lambda t, y: torch.cat([0.25 - y, y - 0.5, y - 2]), route=route)
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)


@pytest.mark.parametrize("t0", [0.0, 2.5])
def test_an_event_of_time_alone(t0):
    event_t, _ = until(lambda t, y: t - 3.5, t0=t0)
    assert event_t == pytest.approx(3.5, rel=1e-14)
    backward, _ = until(lambda t, y: t + 1.5, t0=t0, reverse_time=True)
    assert backward == pytest.approx(-1.5, rel=1e-14)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_shape_of_the_values_does_not_matter(shape):
    event_t, _ = until(lambda t, y: (y - 0.5).reshape(shape))
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)


def test_a_threshold_changed_in_place_is_seen():
    class Reaching(nn.Module):
        def __init__(self):
            super().__init__()
            self.level = nn.Parameter(scalar(0.5))

        def forward(self, t, y):
            return y[0] - self.level

    event = Reaching()
    for level, expected in ((0.5, 0.6931471805), (0.25, 1.3862943611), (0.5, 0.6931471805)):
        with torch.no_grad():
            event.level.fill_(level)
        assert until(event)[0] == pytest.approx(expected, rel=1e-8)


def test_two_event_functions_of_one_structure_take_turns():
    def reaching(level):
        return lambda t, y: y[0] - level

    half, quarter = reaching(scalar(0.5)), reaching(scalar(0.25))
    for _ in range(3):
        assert until(half)[0] == pytest.approx(0.6931471805, rel=1e-8)
        assert until(quarter)[0] == pytest.approx(1.3862943611, rel=1e-8)


def test_a_number_that_the_event_function_reads_may_change():
    level = 0.5

    def event(t, y):
        return y[0] - level

    assert until(event)[0] == pytest.approx(0.6931471805, rel=1e-8)
    level = 0.25
    assert until(event)[0] == pytest.approx(1.3862943611, rel=1e-8)


class Oscillator(nn.Module):
    """Its forward is a vector field and an event function, its method another one."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64))

    def forward(self, t, y):
        return y @ self.matrix

    def crossing(self, t, y):
        return y[0] * self.matrix[0, 1] - 0.5


def test_events_share_the_field_s_object_and_its_parameters():
    # (cos t, sin t), whose derivative's first entry changes sign at π; and cos(π/3) = 1/2.
    field, y0 = Oscillator(), torch.tensor([1.0, 0.001], dtype=torch.float64)
    same = {route: until(field, field=field, y0=y0, route=route) for route in ROUTES}
    assert same["compiled"][0] == pytest.approx(same["torch"][0], rel=1e-7)
    assert same["compiled"][0] == pytest.approx(same["callback"][0], rel=1e-12)
    assert torch.allclose(same["compiled"][1], same["callback"][1], rtol=1e-12)
    method = until(field.crossing, field=field, y0=torch.tensor([1.0, 0.0]).double())
    assert method[0] == pytest.approx(1.0471975512, rel=1e-8)


def test_one_structure_with_other_tensors_is_field_and_event_at_once():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.register_buffer("scale", scalar(scale))

        def forward(self, t, y):
            return self.scale * torch.cos(t) * y

    # No gradient is wanted, so both tapes are the same text. y = exp(sin t).
    field, event = Scaled(1.0), Scaled(-3.0)
    y0 = torch.ones(2, dtype=torch.float64)
    for _ in range(2):
        event_t, y = until(event, field=field, y0=y0, adjoint_params=())
        assert event_t == pytest.approx(torch.pi / 2, rel=1e-7)
        assert torch.allclose(y[-1], torch.e * y0, rtol=1e-7)


def test_a_compiled_event_calls_python_no_more_than_the_interface_does():
    calls = itertools.count()  # the compiler does not see into it

    def event(t, y):
        next(calls)
        return y[0] - 0.5

    forget_compilations()
    until(event)
    assert next(calls) < 8  # traced, verified, and asked by torchdiffeq
    until(event)
    after = next(calls)
    until(event)
    assert next(calls) - after == 2  # torchdiffeq takes the signs, and this line counts too
    until(event, route="callback")
    assert next(calls) - after > 20


def test_what_an_event_costs_is_not_counted_as_evaluations_of_f():
    counts = []
    for event in (lambda t, y: y[0] - 0.5, lambda t, y: torch.cat([y - 0.5] * 50)):
        with pysemi.record() as solves:
            until(event)
        (forward,) = solves.forward
        assert forward.nfe == len(forward.evaluation_times)
        counts.append((forward.nfe, forward.accepted, forward.rejected, forward.bridge))
    assert counts[0] == counts[1]
    assert counts[0][3] == "compiled"


def branching(t, y):
    return y[0] - 0.5 if y.sum() > -1e9 else y[0]


def test_an_event_that_cannot_be_compiled_runs_by_callback_and_says_so_once():
    forget_warnings()
    with pytest.warns(BridgeWarning, match=r"event_fn branching cannot be compiled: .*if y.sum"):
        event_t, _ = until(branching, bridge="auto")
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        until(branching, bridge="auto")
    with pytest.raises(CompileError, match=r"event_fn branching cannot be compiled"):
        until(branching, bridge="compiled")


def test_an_event_that_changes_itself_runs_by_callback():
    class Counting:
        calls = 0

        def __call__(self, t, y):
            self.calls += 1
            return y[0] - 0.5

    event = Counting()
    forget_warnings()
    with pytest.warns(BridgeWarning, match="changes .*calls"):
        event_t, _ = until(event, bridge="auto")
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)
    assert event.calls > 10


def test_an_event_by_way_of_numpy_runs_by_callback():
    forget_warnings()
    with pytest.warns(BridgeWarning, match="looks at a tensor's value"):
        event_t, _ = until(lambda t, y: torch.as_tensor(y.numpy()) - 0.5, bridge="auto")
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)


def test_a_compiled_event_goes_with_a_field_by_callback_and_the_other_way_round():
    class Branching(nn.Module):
        def forward(self, t, y):
            return -y if y.sum() > -1e9 else y

    forget_warnings()
    with pytest.warns(BridgeWarning, match="Branching"):
        event_t, _ = until(
            lambda t, y: y[0] - 0.5, field=Branching(), bridge="auto", adjoint_params=()
        )
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)
    with pytest.warns(BridgeWarning, match="branching"), pysemi.record() as solves:
        until(branching, bridge="auto")
    assert solves.forward[0].bridge == "compiled"


def test_a_wrong_translation_of_an_event_is_found_before_it_is_used(monkeypatch):
    from pysemi.compiler.ops import OPERATORS
    from pysemi.compiler.ops.registry import aten

    def wrong(builder, meta, x):
        return builder.pointwise("cos($1)", x, dtype=meta.dtype)

    forget_compilations()
    forget_warnings()
    monkeypatch.setitem(OPERATORS, aten.exp.default, wrong)
    try:
        with pytest.warns(BridgeWarning, match="the compiled event function differs"):
            event_t, _ = until(lambda t, y: torch.exp(y[0]) - torch.e**0.5, bridge="auto")
    finally:
        forget_compilations()
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)


def test_a_value_that_is_nothing_but_rounding_is_no_wrong_translation():
    theirs, ours = torch.tensor([1e-7]), torch.tensor([-2e-7])
    rounding = ROUNDINGS * torch.finfo(torch.float32).eps
    assert first_difference([("event function", theirs, ours)], rounding) is None
    assert first_difference([("event function", theirs, ours)]) is not None
    assert first_difference([("event function", theirs, ours + 1e-5)], rounding) is not None


@pytest.mark.parametrize("route", ["compiled", "callback"])
def test_an_event_at_once_and_one_that_becomes_nan(route):
    event_t, y = until(lambda t, y: torch.cat([y - 1, y + 4]), route=route, t0=2.0)
    assert event_t == 2.0
    assert torch.equal(y, torch.ones(2, 1, dtype=torch.float64))
    with pytest.raises(ArgumentError, match=r"event_fn: is NaN at t = (0\.[89]|[1-9])"):
        until(lambda t, y: torch.sqrt(y[0] - 0.45) + t, route=route)
    with pytest.raises(ArgumentError, match=r"event_fn: is NaN at t = 2$"):
        until(lambda t, y: torch.sqrt(y[0] - 3), route=route, t0=2.0)


def test_a_partial_and_a_constant():
    event_t, _ = until(partial(lambda level, t, y: y - level, 0.5))
    assert event_t == pytest.approx(0.6931471805, rel=1e-8)
    with pytest.raises(pysemi.errors.StepBudgetError):
        until(lambda t, y: torch.ones(2), options=dict(max_num_steps=20))


def test_the_gradient_comes_after_the_event_function_is_gone():
    def solve():
        field, y0 = Flow(), (torch.linspace(-1, 1, 12).view(4, 3).double(), torch.zeros(4).double())
        level = scalar(-1.0)
        _, y = pysemi.odeint_adjoint(
            field, y0, times(0.0, 1.0), event_fn=lambda t, state: state[1].sum() - level,
            rtol=1e-9, atol=1e-9, backend="julia", bridge="compiled",
        )  # fmt: skip
        return field, y

    expected = None
    for _ in range(2):
        field, y = solve()
        gc.collect()
        until(lambda t, y: y[0] - 0.5)
        y[0][-1].sum().backward()
        expected = field.weight.grad if expected is None else expected
        assert torch.equal(field.weight.grad, expected)


def test_two_threads_with_thresholds_of_their_own():
    found: dict[float, list[float]] = {0.5: [], 0.25: []}

    def work(level):
        threshold = scalar(level)
        for _ in range(20):
            found[level].append(until(lambda t, y: y[0] - threshold)[0])

    threads = [threading.Thread(target=work, args=(level,)) for level in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0.5] == pytest.approx([0.6931471805] * 20, rel=1e-8)
    assert found[0.25] == pytest.approx([1.3862943611] * 20, rel=1e-8)
