"""On Julia, odeint's gradient is that of the steps: what torch gets by going back through them."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pysemi
from pysemi.errors import ArgumentError, DoubleBackwardError
from tests.compiler.models import build
from tests.vector_fields import Decay, Flow, Spiral, times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

# torchdiffeq differentiates its choice of the first step; a given one has no gradient.
STEPS = dict(rtol=1e-6, atol=1e-6, options=dict(first_step=0.05))


class Swinging(nn.Module):
    """A network of the state, times cos t."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, y):
        return self.net(y) * torch.cos(t)


def on(backend, **options):
    """The options of torchdiffeq's steps, as a backend takes them."""
    options = {**STEPS, **options}
    if backend == "julia" and "controller" not in options["options"]:
        options["options"] = {**options["options"], "controller": "torchdiffeq"}
    return {"backend": backend, **options}


def gradients(field, y0, t, backend, *, extra=(), **options):
    """The solution, and the gradients of y0, t, the parameters and ``extra``."""
    parts = y0 if isinstance(y0, tuple) else (y0,)
    leaves = tuple(x.detach().clone().requires_grad_() for x in parts)
    t = t.detach().clone().requires_grad_()
    params = list(field.parameters()) if isinstance(field, nn.Module) else []
    with pysemi.record() as solves:
        y = pysemi.odeint(
            field, leaves if isinstance(y0, tuple) else leaves[0], t, **on(backend, **options)
        )
        loss = sum((x**2).sum() for x in (y if isinstance(y, tuple) else (y,)))
        wanted = [*leaves, *(p for p in params if p.requires_grad), *extra, t]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return y, found, solves


def assert_same(field, y0, t, bound=1e-10, time_bound=1e-3, extra=(), **options):
    (ours, ours_grads, solves), (theirs, theirs_grads, _) = (
        gradients(field, y0, t, backend, extra=extra, **options) for backend in ("julia", "torch")
    )
    for a, b in zip(
        ours if isinstance(ours, tuple) else (ours,),
        theirs if isinstance(theirs, tuple) else (theirs,),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=bound, atol=bound)
    for index, (a, b) in enumerate(zip(ours_grads, theirs_grads, strict=True)):
        assert (a is None) <= (b is None)
        if a is None:
            continue
        b = torch.zeros_like(a) if b is None else b
        # Torch differentiates its interpolation with respect to t; f at t is what it stands for.
        within = time_bound if index == len(ours_grads) - 1 else bound
        assert float((a - b).abs().max()) <= within * max(float(b.abs().max()), 1e-6)
    return solves


def spiral(batch=4, dtype=torch.float64):
    return Spiral(dtype=dtype), torch.linspace(-1, 1, 2 * batch, dtype=dtype).view(batch, 2)


@pytest.mark.parametrize("bridge", ["compiled", "callback"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_equal_to_backprop_through_the_same_steps(method, bridge):
    field, y0 = spiral()
    t = times(0.0, 0.4, 1.0, 2.0)
    julia = {"method": method, "bridge": bridge}
    a = gradients(field, y0, t, "julia", **julia)
    b = gradients(field, y0, t, "torch", method=method)
    assert all(
        float((x - y).abs().max()) < 1e-11 * float(y.abs().max())
        for x, y in zip(a[1][:-1], b[1][:-1], strict=True)
    )
    (forward,), (backward,) = a[2].forward, a[2].backward
    assert forward.accepted == backward.accepted == b[2].forward[0].accepted
    assert (backward.adjoint, backward.bridge, backward.rejected) == ("discrete", bridge, 0)
    assert backward.nvjp > 0


@pytest.mark.parametrize("t", [(0.0, 0.4, 1.0), (1.0, 0.3, -0.5), (0.0, 3.0), (2.0,)], ids=str)
def test_times_in_both_directions_and_a_single_one(t):
    assert_same(*spiral(), times(*t))


def test_observations_at_step_ends():
    t = times(0.0, 0.7, 1.0)
    assert_same(*spiral(), t, options=dict(first_step=0.05, step_t=t[1:]), time_bound=1e-4)


def test_tuple_states():
    y0 = (torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3), torch.zeros(2).double())
    assert_same(Flow(), y0, times(0.0, 0.5, 1.0))


def test_single_precision():
    field, y0 = spiral(dtype=torch.float32)
    options = dict(rtol=1e-4, atol=1e-4)
    assert_same(field, y0, times(0.0, 0.5, 1.0), bound=1e-4, time_bound=1e-2, **options)


@pytest.mark.parametrize("name", ["hamiltonian", "flow-exact", "cde-cubic", "symplectic-1"])
def test_models_of_the_paper(name):
    model = build(name)
    # Step sizes come from error estimates, of which rounding is a larger part in easy problems.
    # Backprop's dL/dt is 10 % off where steps cross a knot of the spline: see the next test.
    assert_same(model.field, model.y, times(0.0, 0.3, 0.6), bound=1e-9, time_bound=0.1)


def test_the_gradient_of_times_is_near_the_exact_one():
    model = build("cde-cubic")
    t = times(0.0, 0.3, 0.6)

    def of_times(solve, **options):
        leaf = t.clone().requires_grad_()
        y = solve(model.field, model.y, leaf, **options)
        return torch.autograd.grad((y**2).sum(), leaf)[0]

    found = of_times(pysemi.odeint, backend="julia", rtol=1e-6, atol=1e-6)
    exact = of_times(pysemi.odeint_adjoint, backend="torch", rtol=1e-9, atol=1e-9)
    assert torch.allclose(found, exact, rtol=1e-3)


def test_a_jump():
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t, y):
            return torch.where(t < 0.5, -self.rate * y, self.rate * y**2)

    options = dict(first_step=0.05, jump_t=times(0.5))
    y0 = torch.tensor([1.0, 0.3], dtype=torch.float64)
    assert_same(Switched(), y0, times(0.0, 0.2, 1.0), options=options, time_bound=1e-2)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 12),
    depth=st.integers(1, 3),
    activation=st.sampled_from([nn.Tanh, nn.SiLU, nn.Softplus, nn.Sigmoid]),
    seed=st.integers(0, 100),
)
def test_random_perceptrons(width, depth, activation, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(layers[-2].out_features if layers else 3, width), activation()]
        net = nn.Sequential(*layers, nn.Linear(width, 3)).double()
        y0 = torch.randn(2, 3, dtype=torch.float64)

    assert_same(Swinging(net), y0, times(0.0, 0.6, 1.0))


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "Vern7", "bosh3", "adaptive_heun", "RK4"])
def test_every_method_is_near_the_exact_gradient(method):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    t = times(0.0, 0.35, 1.0)
    y = pysemi.odeint(
        lambda t, y: -rate * y, y0, t, backend="julia", method=method, rtol=1e-6, atol=1e-6
    )
    found = torch.autograd.grad(y.sum(), [y0, rate])
    expected = torch.autograd.grad((y0 * torch.exp(-rate * t)[:, None]).sum(), [y0, rate])
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(found, expected, strict=True))


def test_few_checkpoints_give_the_same_gradient():
    field, y0 = spiral()
    t = times(0.0, 1.3, 5.0)
    tight = dict(rtol=1e-10, atol=1e-10)
    many, few = (
        gradients(field, y0, t, "julia", **tight, options=dict(controller="default", **kept))
        for kept in ({}, {"checkpoints": 3})
    )
    for a, b in zip(many[1], few[1], strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)
    assert few[2].backward[0].nfe > many[2].backward[0].nfe
    for wrong in (0, -1, 2.5, True, "all"):
        with pytest.raises(ArgumentError, match="checkpoints"):
            pysemi.odeint(field, y0, t, backend="julia", options=dict(checkpoints=wrong))


def test_an_encoder_whose_output_the_field_reads_gets_its_gradient():
    encoder, net = nn.Linear(3, 2).double(), nn.Linear(4, 2).double()
    x, y0 = torch.ones(5, 3, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    found = {}
    for backend in ("julia", "torch"):
        context = torch.tanh(encoder(x))

        def field(t, y, context=context):
            return torch.tanh(net(torch.cat([y, context], dim=-1)))

        y = pysemi.odeint(field, y0, times(0.0, 1.0), **on(backend))
        wanted = [*encoder.parameters(), *net.parameters()]
        found[backend] = torch.autograd.grad((y**2).sum(), wanted)
    for a, b in zip(found["julia"], found["torch"], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


class Latent(nn.Module):
    """A field that holds the encoder of its context, and maybe uses its weights itself."""

    def __init__(self, shares: bool) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2).double()
        self.net = nn.Linear(2, 2).double()
        self.shares = shares
        self.context = None

    def forward(self, t, y):
        z = torch.tanh(self.net(y)) + self.context
        return z @ self.encoder.weight if self.shares else z


def latent_gradients(field, backend):
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    field.context = field.encoder(x)
    y = pysemi.odeint(field, torch.zeros_like(x), times(0.0, 1.0), **on(backend))
    return torch.autograd.grad((y**2).sum(), list(field.parameters()), allow_unused=True)


def test_weights_that_act_by_way_of_a_context_are_counted_once():
    field = Latent(shares=False)
    for a, b in zip(
        latent_gradients(field, "julia"), latent_gradients(field, "torch"), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


def test_weights_that_act_both_ways_are_left_to_torch():
    field = Latent(shares=True)
    with pytest.raises(ArgumentError, match="cannot tell apart"):
        latent_gradients(field, "julia")
    field.context = field.encoder(torch.ones(3, 2, dtype=torch.float64))
    with pysemi.record() as solves:
        y = pysemi.odeint(field, torch.zeros(3, 2, dtype=torch.float64), times(0.0, 1.0))
        y.sum().backward()
    assert solves.forward[0].backend == "torch"
    assert field.encoder.weight.grad is not None


def test_frozen_parameters_and_fields_without_any():
    field, y0 = spiral()
    field.net[0].weight.requires_grad_(False)
    assert_same(field, y0, times(0.0, 1.0))
    assert_same(lambda t, y: torch.sin(y) * t, y0, times(0.0, 1.0))


def test_a_closure_over_leaves():
    weight = torch.eye(2, dtype=torch.float64, requires_grad=True)
    assert_same(lambda t, y: torch.tanh(y @ weight), spiral()[1], times(0.0, 1.0), extra=(weight,))


def test_nothing_is_kept_where_no_gradient_is_wanted():
    field, y0 = spiral()
    with torch.no_grad(), pysemi.record() as solves:
        y = pysemi.odeint(field, y0, times(0.0, 1.0), backend="julia")
    assert not y.requires_grad
    assert len(solves.forward) == 1
    frozen = Spiral().requires_grad_(False)
    assert not pysemi.odeint(frozen, y0, times(0.0, 1.0), backend="julia").requires_grad


def test_auto_takes_julia_for_odeint_with_gradients():
    field, y0 = spiral()
    with pysemi.record() as solves:
        pysemi.odeint(field, y0, times(0.0, 1.0)).sum().backward()
    assert [s.backend for s in (*solves.forward, *solves.backward)] == ["julia", "julia"]


def test_a_retained_graph_a_second_gradient_and_another_thread():
    field, y0 = spiral()
    y0.requires_grad_()
    y = pysemi.odeint(field, y0, times(0.0, 0.5, 1.0), backend="julia")
    first = torch.autograd.grad(y.sum(), y0, retain_graph=True)[0]
    second = torch.autograd.grad(y.sum(), y0, retain_graph=True)[0]
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(DoubleBackwardError, match="backend='torch'"):
        gradient.sum().backward()
    other = pysemi.odeint(field, y0, times(0.0, 0.5, 1.0), backend="julia")
    found = []
    thread = threading.Thread(
        target=lambda: found.append(torch.autograd.grad(other.sum(), y0)[0]), daemon=True
    )
    thread.start()
    thread.join(60)
    assert torch.equal(found[0], first)


def test_parameters_changed_after_the_forward_solve_are_noticed():
    field, y0 = spiral()
    y = pysemi.odeint(field, y0, times(0.0, 1.0), backend="julia")
    with torch.no_grad():
        field.net[0].weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_solves_of_one_field_that_wait_for_their_gradients_together():
    field = Spiral()
    t = times(0.0, 0.3, 1.0)
    states = [torch.randn(5, 2, dtype=torch.float64) for _ in range(4)]

    def loss(y0):
        return (pysemi.odeint(field, y0, t, **on("julia", options={})) ** 2).sum()

    wanted = tuple(field.parameters())
    expected = [torch.autograd.grad(loss(y0), wanted) for y0 in states]
    losses = [loss(y0) for y0 in states]
    dropped = loss(states[0])
    found = {}
    for index in (2, 0):
        found[index] = torch.autograd.grad(losses[index], wanted, retain_graph=True)
    del dropped
    losses[2] = None  # what it kept serves the next
    new = loss(states[1])
    for index in (3, 1):
        found[index] = torch.autograd.grad(losses[index], wanted, retain_graph=True)
    again = torch.autograd.grad(losses[0], wanted)
    for index, gradients_ in found.items():
        assert all(map(torch.equal, gradients_, expected[index]))
    assert all(map(torch.equal, again, expected[0]))
    assert all(map(torch.equal, torch.autograd.grad(new, wanted), expected[1]))


@pytest.mark.parametrize("batch", [1, 3, 40, 200])
def test_gradients_of_weights_whose_products_wait_for_one_another(batch):
    # Some 64 evaluations, or a thousand rows, make one product; the last ones fewer.
    torch.manual_seed(batch)
    net = nn.Sequential(nn.Linear(3, 9), nn.Softplus(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))
    net.double()

    y0 = torch.randn(batch, 3, dtype=torch.float64)
    assert_same(Swinging(net), y0, times(0.0, 0.1, 4.0))


def test_the_steps_are_let_go_with_the_graph():
    field, y0 = spiral()
    y = pysemi.odeint(field, y0, times(0.0, 1.0), backend="julia")
    node = weakref.ref(y.grad_fn)
    del y
    gc.collect()
    assert node() is None


def test_odeint_adjoint_has_it_by_name():
    field, y0 = spiral()
    t = times(0.0, 0.5, 1.0)
    _, expected, _ = gradients(field, y0, t, "julia")
    y0 = y0.clone().requires_grad_()
    options = on("julia")
    y = pysemi.odeint_adjoint(field, y0, t, adjoint="discrete", **options)
    found = torch.autograd.grad((y**2).sum(), [y0, *field.parameters()])
    for a, b in zip(found, expected, strict=False):
        assert torch.equal(a, b)
    with pytest.raises(ArgumentError, match="adjoint_method"):
        pysemi.odeint_adjoint(
            field, y0, t, adjoint="discrete", adjoint_method="tsit5", backend="julia"
        )


def test_methods_whose_steps_cannot_be_made_again_are_refused():
    field, y0 = spiral()
    with pytest.raises(ArgumentError, match="no explicit Runge-Kutta"):
        pysemi.odeint(field, y0, times(0.0, 1.0), method="KenCarp4", backend="julia")


@pytest.mark.parametrize("bridge", ["compiled", "callback"])
def test_a_solve_that_ends_with_an_event(bridge):
    class Fall(nn.Module):
        """Height and speed, with drag."""

        def __init__(self):
            super().__init__()
            self.drag = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

        def forward(self, t, state):
            return torch.stack([state[1], -1 - self.drag * state[1] * state[1].abs()])

    found = {}
    for backend in ("julia", "torch"):
        field = Fall()
        y0 = torch.tensor([1.0, 0.3], dtype=torch.float64, requires_grad=True)
        t0 = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        event_t, y = pysemi.odeint_event(
            field,
            y0,
            t0,
            event_fn=lambda t, y: y[0],
            backend=backend,
            rtol=1e-10,
            atol=1e-10,
            **({"bridge": bridge} if backend == "julia" else {}),
        )
        wanted = (y0, t0, field.drag)
        gradients = torch.autograd.grad(event_t + y[-1, 1] ** 2, wanted, allow_unused=True)
        found[backend] = torch.cat([x.detach().reshape(-1) for x in (event_t, y, *gradients)])
    # Step sizes differ, and f's second derivative jumps where the speed is zero.
    assert torch.allclose(found["julia"], found["torch"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("interface", [pysemi.odeint, pysemi.odeint_adjoint])
def test_an_event_at_once_passes_both_cotangents_on(interface):
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    _, y = pysemi.odeint_event(
        Decay(),
        y0,
        torch.tensor(0.0, dtype=torch.float64),
        event_fn=lambda t, y: y[0] - 1,
        odeint_interface=interface,
        backend="julia",
    )
    (gradient,) = torch.autograd.grad(2 * y[0].sum() + 3 * y[1].sum(), y0)
    assert float(gradient) == 5


def test_an_error_in_a_callback_on_the_way_back_is_the_users_own():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
            self.broken = False

        def forward(self, t, y):
            if self.broken:
                raise ZeroDivisionError("of the user's")
            return -self.rate * y

    field = Fails()
    y0 = torch.ones(2, dtype=torch.float64)
    y = pysemi.odeint(field, y0, times(0.0, 1.0), backend="julia", bridge="callback")
    field.broken = True
    with pytest.raises(ZeroDivisionError, match="of the user's"):
        y.sum().backward()
