"""pysemi's functions give torchdiffeq's numbers, bit for bit, whatever the arguments."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st

import pysemi
from pysemi.methods import MethodKind, torchdiffeq_kind, torchdiffeq_methods
from tests.vector_fields import Decay, Flow, Spiral, times

GRID = {"step_size": 0.05}
SETUPS = {
    "dopri5": {},
    "dopri5 at given tolerances": {"rtol": 1e-4, "atol": 1e-6},
    "dopri5 with tensor tolerances": {"rtol": torch.tensor(1e-4), "atol": torch.tensor(1e-6)},
    "dopri8": {"method": "dopri8"},
    "bosh3": {"method": "bosh3", "rtol": 1e-4, "atol": 1e-6},
    "adaptive_heun": {"method": "adaptive_heun", "rtol": 1e-2, "atol": 1e-3},
    "fehlberg2": {"method": "fehlberg2", "rtol": 1e-2, "atol": 1e-3},
    "rk4": {"method": "rk4", "options": GRID},
    "euler": {"method": "euler", "options": GRID},
    "midpoint": {"method": "midpoint", "options": GRID},
    "explicit_adams": {"method": "explicit_adams", "options": GRID},
    "implicit_adams": {"method": "implicit_adams", "options": GRID, "rtol": 1e-3, "atol": 1e-4},
    "cubic interpolation": {"method": "rk4", "options": {**GRID, "interp": "cubic"}},
    "first and largest step": {"options": {"first_step": 0.01, "max_step": 0.1}},
    "jump times": {"options": {"jump_t": times(0.3, 0.7)}},
    "step times": {"options": {"step_t": times(0.3, 0.7)}},
    "another dtype of time": {"options": {"dtype": torch.float32}, "rtol": 1e-3, "atol": 1e-4},
    "a norm of one's own": {"options": {"norm": lambda y: y.abs().max()}},
    "seminorm": {"adjoint_options": {"norm": "seminorm"}},
    "adjoint norm of one's own": {"adjoint_options": {"norm": lambda parts: parts[1].abs().max()}},
    "other adjoint settings": {
        "adjoint_rtol": 1e-4,
        "adjoint_atol": 1e-5,
        "adjoint_method": "bosh3",
    },
    "another adjoint method": {
        "options": {"first_step": 0.1},
        "adjoint_method": "rk4",
        "adjoint_options": GRID,
    },
}
FORWARD = ("rtol", "atol", "method", "options")


def y0() -> torch.Tensor:
    return torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)


def flow_state() -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    return z, torch.zeros(4, dtype=torch.float64)


def gradients(package, name, func, y, t, **kwargs):
    """Solution, and the gradients of a weighted sum of it, by ``package``."""
    state = y if isinstance(y, tuple) else (y,)
    state = tuple(component.clone().requires_grad_() for component in state)
    t = t.clone().requires_grad_()
    out = getattr(package, name)(func, state if isinstance(y, tuple) else state[0], t, **kwargs)
    outputs = out if isinstance(out, tuple) else (out,)
    loss = sum(
        (torch.linspace(1, 2, part.numel(), dtype=part.dtype) * part.flatten()).sum()
        for part in outputs
    )
    inputs = (*state, t, *func.parameters())
    return outputs, torch.autograd.grad(loss, inputs, allow_unused=True)


def assert_identical(name, func, y, t, **kwargs):
    ours = gradients(pysemi, name, func, y, t, **kwargs)
    theirs = gradients(torchdiffeq, name, func, y, t, **kwargs)
    for mine, reference in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        if reference is None:
            assert mine is None
        else:
            assert torch.equal(mine, reference)


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize(
    "t", [times(0, 0.4, 1), times(1, 0.6, 0)], ids=["increasing", "decreasing"]
)
def test_odeint_adjoint_equals_torchdiffeq(setup, t):
    assert_identical("odeint_adjoint", Spiral(), y0(), t, **SETUPS[setup])


@pytest.mark.parametrize("setup", SETUPS)
def test_odeint_equals_torchdiffeq(setup):
    kwargs = {key: value for key, value in SETUPS[setup].items() if key in FORWARD}
    assert_identical("odeint", Spiral(), y0(), times(0, 0.4, 1), **kwargs)


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize(
    "t", [times(0, 0.4, 1), times(1, 0.6, 0)], ids=["increasing", "decreasing"]
)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"rtol": (1e-4, 1e-2), "atol": (1e-6, 1e-3), "adjoint_rtol": 1e-4, "adjoint_atol": 1e-6},
        {"method": "rk4", "options": GRID},
        {"options": {"norm": lambda state: state[0].abs().max()}},
        {"adjoint_options": {"norm": "seminorm"}},
        {"adjoint_options": {"norm": lambda parts: max(part.abs().max() for part in parts)}},
    ],
    ids=["plain", "tolerances", "rk4", "norm", "seminorm", "adjoint norm"],
)
def test_tuple_states_equal_torchdiffeq(name, t, kwargs):
    if name == "odeint":
        kwargs = {key: value for key, value in kwargs.items() if key in FORWARD}
    assert_identical(name, Flow(), flow_state(), t, **kwargs)


@settings(max_examples=15, deadline=None)
@given(
    depth=st.integers(1, 3),
    width=st.integers(1, 12),
    channels=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    seminorm=st.booleans(),
    observations=st.lists(st.floats(0.05, 1), min_size=1, max_size=3),
)
def test_random_perceptrons_equal_torchdiffeq(depth, width, channels, seed, seminorm, observations):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(channels, width), torch.nn.Tanh()]
    for _ in range(depth - 1):
        layers += [torch.nn.Linear(width, width), torch.nn.Softplus()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(width, channels)).double()

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, y):
            return self.net(y)

    t = torch.cumsum(times(0, *observations), 0)
    norm = {"adjoint_options": {"norm": "seminorm"}} if seminorm else {}
    y = torch.randn(3, channels, dtype=torch.float64)
    assert_identical("odeint_adjoint", Field(), y, t, rtol=1e-4, atol=1e-6, **norm)


@pytest.mark.parametrize("norm", ["default", "seminorm", "rms"])
def test_the_adjoint_agrees_with_backprop_through_the_solver(norm):
    func = Spiral()
    tight = {"rtol": 1e-11, "atol": 1e-12}
    _, by_adjoint = gradients(
        pysemi,
        "odeint_adjoint",
        func,
        y0(),
        times(0, 1, 2),
        adjoint_options={"norm": norm},
        **tight,
    )
    _, by_backprop = gradients(pysemi, "odeint", func, y0(), times(0, 1, 2), **tight)
    for adjoint, backprop in zip(by_adjoint, by_backprop, strict=True):
        assert torch.allclose(adjoint, backprop, rtol=1e-8, atol=1e-9)


def test_gradients_of_a_linear_equation_are_exact():
    func = Decay(0.7)
    y = torch.tensor([2.0], dtype=torch.float64)
    (outputs,), (by_y, by_t, by_rate) = gradients(
        pysemi, "odeint_adjoint", func, y, times(0, 1.5), rtol=1e-10, atol=1e-12
    )
    factor = torch.exp(torch.tensor(-0.7 * 1.5, dtype=torch.float64))
    weights = (1.0, 2.0)  # of y(0) and y(1.5), by `gradients`
    assert torch.allclose(outputs[1], 2 * factor)
    assert torch.allclose(by_y, weights[0] + weights[1] * factor)
    assert torch.allclose(by_rate, -weights[1] * 1.5 * 2 * factor)
    slope = weights[1] * -0.7 * 2 * factor
    assert torch.allclose(by_t, torch.stack([-slope, slope]), rtol=1e-7)


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("reverse", [False, True])
def test_events_equal_torchdiffeq(name, reverse):
    def event(package):
        func = Decay(1.0)
        y = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
        t, state = package.odeint_event(
            func,
            y,
            torch.tensor(0.5, dtype=torch.float64),
            event_fn=lambda t, y: y[0] - (3.0 if reverse else 1.0),
            reverse_time=reverse,
            odeint_interface=getattr(package, name),
        )
        return t, state, *torch.autograd.grad(t + state[-1].sum(), (y, func.rate))

    for mine, reference in zip(event(pysemi), event(torchdiffeq), strict=True):
        assert torch.equal(mine, reference)


def test_an_event_on_a_tuple_state_equals_torchdiffeq():
    def event(package):
        return package.odeint_event(
            Flow(), flow_state(), times(0)[0], event_fn=lambda t, state: state[1].sum() + 5.0
        )

    (our_t, ours), (their_t, theirs) = event(pysemi), event(torchdiffeq)
    assert torch.equal(our_t, their_t)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_event_time_is_where_the_event_function_vanishes():
    t, _ = pysemi.odeint_event(
        Decay(1.0), times(2.0), times(0)[0], event_fn=lambda t, y: y[0] - 1.0
    )
    assert float(t.detach()) == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)


@pytest.mark.parametrize("decreasing", [False, True])
def test_callbacks_of_the_module_are_called_as_by_torchdiffeq(decreasing):
    class Listening(Flow):
        def __init__(self):
            super().__init__()
            self.calls = []

        def _note(self, name):
            def callback(t, y, dt):
                shapes = [part.shape for part in y]
                self.calls.append((name, float(t), shapes, float(dt)))

            return callback

        def __getattr__(self, name):
            if name.startswith("callback_"):
                return self._note(name)
            return super().__getattr__(name)

    def calls(package):
        func = Listening()
        t = times(1, 0) if decreasing else times(0, 1)
        gradients(package, "odeint_adjoint", func, flow_state(), t, rtol=1e-9, atol=1e-11)
        return func.calls

    ours, theirs = calls(pysemi), calls(torchdiffeq)
    assert {"callback_step", "callback_accept_step", "callback_step_adjoint"} <= {
        call[0] for call in ours
    }
    assert ours == theirs


def test_a_callback_the_method_never_calls_is_warned_of_as_by_torchdiffeq():
    class Listening(Decay):
        def callback_reject_step(self, t, y, dt):
            raise AssertionError("a fixed grid rejects nothing")

    with pytest.warns(UserWarning, match="does not support callbacks {'callback_reject_step'}"):
        pysemi.odeint(Listening(), times(1.0), times(0, 1), method="rk4")


def test_no_warning_without_a_callback_of_the_users():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pysemi.odeint(Decay(), times(1.0), times(0, 1), method="rk4")
        with torch.no_grad():
            pysemi.odeint(Decay(), times(1.0), times(0, 1), method="scipy_solver")


def test_parameters_outside_the_module_get_their_gradient_when_named():
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = pysemi.odeint_adjoint(
        lambda t, y: -rate * y, times(1.0), times(0, 1), adjoint_params=(p for p in [rate])
    )
    y[-1].sum().backward()
    assert rate.grad == pytest.approx(-torch.exp(torch.tensor(-0.5)).item(), rel=1e-6)


def test_a_parameter_that_was_not_named_is_warned_of():
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = torch.ones(1, dtype=torch.float64, requires_grad=True)
    out = pysemi.odeint_adjoint(lambda t, y: -rate * y, y, times(0, 1), adjoint_params=())
    with pytest.warns(UserWarning, match=r"1 tensor\(s\) that require a gradient and get none"):
        out[-1].sum().backward()


def test_a_named_intermediate_result_is_not_warned_of():
    raw = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate = raw.exp()
    out = pysemi.odeint_adjoint(
        lambda t, y: -rate * y, times(1.0), times(0, 1), adjoint_params=(rate,)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out[-1].sum().backward()
    assert raw.grad is not None


def test_a_parameter_named_twice_gets_its_gradient_once():
    func = Decay(0.7)
    y = pysemi.odeint_adjoint(func, times(1.0), times(0, 1), adjoint_params=(func.rate, func.rate))
    (gradient,) = torch.autograd.grad(y[-1].sum(), func.rate)
    assert float(gradient) == pytest.approx(-torch.exp(torch.tensor(-0.7)).item(), rel=1e-6)


def test_frozen_parameters_get_none_and_cost_no_channels():
    func = Spiral()
    func.net[0].weight.requires_grad_(False)
    y = pysemi.odeint_adjoint(func, y0(), times(0, 1))
    y[-1].sum().backward()
    assert func.net[0].weight.grad is None
    assert func.net[2].weight.grad is not None


def test_without_gradients_the_solution_has_none():
    with torch.no_grad():
        y = pysemi.odeint_adjoint(Spiral(), y0().requires_grad_(), times(0, 1))
    assert not y.requires_grad


def test_a_solve_in_inference_mode_is_only_a_solve():
    with torch.inference_mode():
        y = pysemi.odeint_adjoint(Spiral(), y0() * 1, times(0, 1))
    assert torch.equal(y, torchdiffeq.odeint(Spiral(), y0(), times(0, 1)))


def test_a_solution_is_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        y = pysemi.odeint_adjoint(Spiral(), y0(), times(0, 1))
        y.sum().backward()
        node = weakref.ref(y.grad_fn)
        del y
        assert node() is None
    finally:
        gc.enable()


def test_a_graph_can_be_used_twice_when_retained_and_not_otherwise():
    func = Spiral()
    y = pysemi.odeint_adjoint(func, y0(), times(0, 1))
    first = torch.autograd.grad(y.sum(), func.net[0].weight, retain_graph=True)
    second = torch.autograd.grad(y.sum(), func.net[0].weight)
    assert torch.equal(first[0], second[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), func.net[0].weight)


@pytest.mark.parametrize("what", ["parameter", "solution"])
def test_a_change_in_place_before_backward_is_noticed(what):
    func = Spiral()
    y = pysemi.odeint_adjoint(func, y0(), times(0, 1))
    loss = y.sum()
    with torch.no_grad():
        (func.net[0].weight if what == "parameter" else y).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_double_backward_is_refused_rather_than_wrong():
    y = y0().requires_grad_()
    out = pysemi.odeint_adjoint(Spiral(), y, times(0, 1))
    (gradient,) = torch.autograd.grad(out[-1].sum(), y, create_graph=True)
    with pytest.raises(pysemi.errors.DoubleBackwardError, match=r"pysemi\.odeint"):
        gradient.pow(2).sum().backward()


def test_create_graph_is_harmless_if_the_gradient_is_not_differentiated():
    func = Spiral()
    out = pysemi.odeint_adjoint(func, y0(), times(0, 1))
    (gradient,) = torch.autograd.grad(out[-1].sum(), func.net[0].weight, create_graph=True)
    assert torch.isfinite(gradient).all()


def test_odeint_can_be_differentiated_twice():
    y = times(1.3).requires_grad_()
    out = pysemi.odeint(
        lambda t, y: -(y**2), y, times(0, 1), method="rk4", options={"step_size": 0.01}
    )
    (first,) = torch.autograd.grad(out[-1].sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    assert float(second) == pytest.approx(-2 / 2.3**3, rel=1e-5)  # y1 = y0 / (1 + y0)


def test_checkpointing_around_a_solve_gives_the_same_gradient():
    from torch.utils.checkpoint import checkpoint

    func, t = Spiral(), times(0, 1)

    def loss(y):
        return pysemi.odeint_adjoint(func, y, t)[-1].pow(2).sum()

    y = y0().requires_grad_()
    (plain,) = torch.autograd.grad(loss(y), y)
    (checkpointed,) = torch.autograd.grad(checkpoint(loss, y, use_reentrant=False), y)
    assert torch.equal(plain, checkpointed)


def test_backward_may_run_on_other_threads_at_once():
    func = Spiral()
    y = pysemi.odeint_adjoint(func, y0(), times(0, 1))
    (expected,) = torch.autograd.grad(y.sum(), func.net[0].weight, retain_graph=True)
    found = []

    def backward():
        found.extend(torch.autograd.grad(y.sum(), func.net[0].weight, retain_graph=True))

    threads = [threading.Thread(target=backward) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(gradient, expected) for gradient in found)


def test_float32_states_keep_their_dtype():
    func = Spiral(dtype=torch.float32)
    y = y0().float().requires_grad_()
    out = pysemi.odeint_adjoint(func, y, torch.tensor([0.0, 1.0]))
    out.sum().backward()
    assert out.dtype == y.grad.dtype == torch.float32


def test_a_noncontiguous_initial_state_is_solved_like_its_copy():
    y = y0().T
    assert not y.is_contiguous()
    func = Spiral()
    plain = pysemi.odeint_adjoint(func, y.contiguous(), times(0, 1))
    assert torch.equal(pysemi.odeint_adjoint(func, y, times(0, 1)), plain)


def test_one_observation_time_returns_the_initial_state():
    y = y0().requires_grad_()
    out = pysemi.odeint_adjoint(Spiral(), y, times(0.3))
    out.sum().backward()
    assert torch.equal(out[0], y)
    assert torch.equal(y.grad, torch.ones_like(y))


def test_a_tolerance_per_channel_also_holds_backward():
    def gradient(**kwargs):
        func = Spiral()
        y = y0().requires_grad_()
        out = pysemi.odeint_adjoint(func, y, times(0, 1), **kwargs)
        return torch.autograd.grad(out[-1].sum(), y)[0]

    uniform = gradient(rtol=1e-5, atol=1e-7)
    full = torch.full((2, 2), 1.0, dtype=torch.float64)
    per_channel = gradient(rtol=1e-5 * full, atol=1e-7 * full[0])
    assert torch.equal(uniform, per_channel)


@pytest.mark.parametrize("method", torchdiffeq_methods())
def test_every_method_torchdiffeq_has_is_accepted(method):
    options = GRID if method not in ("scipy_solver",) else None
    if torchdiffeq_kind(method) is MethodKind.ADAPTIVE:
        options = None
    with torch.no_grad():
        y = pysemi.odeint(
            Decay(1.0),
            times(1.0),
            times(0, 1),
            method=method,
            options=options,
            rtol=1e-4,
            atol=1e-6,
        )
    assert float(y[-1]) == pytest.approx(torch.exp(torch.tensor(-1.0)).item(), abs=0.03)


def test_the_controller_of_torchdiffeq_is_what_torch_has_anyway():
    y = pysemi.odeint(Decay(), times(1.0), times(0, 1), options={"controller": "torchdiffeq"})
    assert torch.equal(y, torchdiffeq.odeint(Decay(), times(1.0), times(0, 1)))
