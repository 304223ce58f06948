"""``batch="independent"``: each trajectory is solved as if it were alone, on both backends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pysemi
from pysemi.compiler.compiled import forget_compilations
from pysemi.errors import ArgumentError, NonFiniteStateError, StepBudgetError
from tests.vector_fields import Decay, Flow, Spiral, times

BACKENDS = pytest.mark.parametrize(
    "backend", ["torch", pytest.param("julia", marks=pytest.mark.julia)], indirect=True
)

B = 5
T = times(0.0, 0.4, 1.0)
OWN_TIMES = torch.stack([T * (number + 1) / B + 0.1 * number for number in range(B)])


@pytest.fixture
def backend(request):
    if request.param == "julia":
        request.getfixturevalue("real_julia")
    return request.param


def states(*rest, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(B, *rest, generator=generator, dtype=dtype)


def differentiated(field, y0, t, solve):
    """The components of ``solve(state, t)``, their gradients, and what they cost."""
    leaves = tuple(x.clone().requires_grad_() for x in (y0 if isinstance(y0, tuple) else (y0,)))
    t = t.clone().requires_grad_()
    with pysemi.record() as solves:
        parts = solve(leaves, t)
        weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape) for x in parts]
        loss = sum((x * w).sum() for x, w in zip(parts, weights, strict=True))
        gradients = torch.autograd.grad(loss, [*leaves, t, *field.parameters()])
    return parts, gradients, solves


def solved(field, state, t, **options):
    """Components of the solution, of a state given by its components."""
    given = state if len(state) > 1 else state[0]
    y = pysemi.odeint_adjoint(field, given, t, rtol=1e-9, atol=1e-9, **options)
    return y if len(state) > 1 else (y,)


def together(field, y0, t, **options):
    return differentiated(
        field, y0, t, lambda state, t: solved(field, state, t, batch="independent", **options)
    )


def one_by_one(field, y0, t, **options):
    def solve(state, t):
        each = [
            solved(
                field,
                tuple(x[number : number + 1] for x in state),
                t if t.ndim == 1 else t[number],
                **options,
            )
            for number in range(B)
        ]
        return [torch.cat(part, dim=1) for part in zip(*each, strict=True)]

    return differentiated(field, y0, t, solve)


def assert_as_if_alone(field, y0, t, **options):
    ours = together(field, y0, t, **options)
    theirs = one_by_one(field, y0, t, **options)
    for a, b in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12 * float(b.detach().abs().max()))

    def counts(solves):
        return [(s.nfe, s.nvjp, s.accepted, s.rejected) for s in solves]

    assert counts(ours[2].forward) == counts(theirs[2].forward)
    numbers = [stats.trajectory for stats in ours[2].backward]
    assert sorted(numbers) == list(range(B))
    assert sorted(counts(ours[2].backward)) == sorted(counts(theirs[2].backward))
    for a, b in zip(ours[2].forward, theirs[2].forward, strict=True):
        assert torch.equal(torch.as_tensor(a.step_times), torch.as_tensor(b.step_times))
    return ours


@BACKENDS
@pytest.mark.parametrize("t", [T, OWN_TIMES], ids=["the same times", "times of their own"])
def test_a_tensor_state(backend, t):
    *_, solves = assert_as_if_alone(Spiral(), 3 * states(2), t, backend=backend)
    if t.ndim == 1:  # they would have waited for each other
        assert len({stats.accepted for stats in solves.forward}) > 1


@BACKENDS
@pytest.mark.parametrize("t", [T.flip(0), OWN_TIMES], ids=["the same times", "times of their own"])
def test_a_tuple_state(backend, t):
    assert_as_if_alone(Flow(), (states(3), states()), t, backend=backend)


@BACKENDS
def test_a_state_of_one_number_each_and_one_of_many_dimensions(backend):
    assert_as_if_alone(Decay(), states(), T, backend=backend)
    assert_as_if_alone(Decay(), states(2, 1, 3), T, backend=backend)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.parametrize("adjoint", ["interpolating", "gauss", "quadrature", "discrete"])
def test_every_adjoint(adjoint):
    assert_as_if_alone(Spiral(), states(2), OWN_TIMES, backend="julia", adjoint=adjoint)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.parametrize(
    "options",
    [
        dict(bridge="callback"),
        dict(adjoint_options=dict(norm="seminorm")),
        dict(options=dict(norm=lambda y: y.abs().max())),
        dict(method="Rodas5P", adjoint="quadrature"),
        dict(
            options=dict(controller="torchdiffeq"), adjoint_options=dict(controller="torchdiffeq")
        ),
    ],
    ids=["callback", "seminorm", "a callable norm", "implicit", "torchdiffeq's control"],
)
def test_what_else_can_be_asked_for(options):
    assert_as_if_alone(Spiral(), states(2), T, backend="julia", **options)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia", "two_threads")
def test_two_threads_give_the_same_gradients_each_time():
    from pysemi.runtime.session import session

    assert session().threads >= 2  # conftest.py asks for them
    field, y0 = Spiral(), states(2)
    first = assert_as_if_alone(field, y0, OWN_TIMES, backend="julia")
    for _ in range(20):
        again = together(field, y0, OWN_TIMES, backend="julia")
        for a, b in zip((*first[0], *first[1]), (*again[0], *again[1]), strict=True):
            assert torch.equal(a, b)
    with torch.no_grad():  # every thread's copy of the field is told of new weights
        for parameter in field.parameters():
            parameter.mul_(1.1)
    assert_as_if_alone(field, y0, OWN_TIMES, backend="julia")


@BACKENDS
def test_odeint_is_differentiated_through_its_steps(backend):
    field, y0 = Spiral(), states(2)
    found = []
    for each in ("independent", None):
        state = y0.clone().requires_grad_()
        if each:
            y = pysemi.odeint(field, state, T, backend=backend, batch=each)
        else:
            y = torch.cat([pysemi.odeint(field, x[None], T, backend=backend) for x in state], dim=1)
        found.append((y, *torch.autograd.grad((y**2).sum(), [state, *field.parameters()])))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@BACKENDS
def test_a_single_trajectory_and_a_single_time(backend):
    y0 = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    options = dict(backend=backend, batch="independent")
    y = pysemi.odeint_adjoint(Decay(), y0, times(0.0, 1.0), **options)
    assert y.shape == (2, 1, 2)
    y = pysemi.odeint_adjoint(Decay(), y0, times(0.0), **options)
    y.sum().backward()
    assert torch.equal(y0.grad, torch.ones_like(y0))


@BACKENDS
def test_the_tensor_of_one_number_per_trajectory_belongs_into_the_state(backend):
    class Rates(nn.Module):
        def __init__(self, rates=None):
            super().__init__()
            self.rates = rates

        def forward(self, t, state):
            y, rates = state if self.rates is None else (state, self.rates)
            dy = -rates[:, None] * y
            return dy if self.rates is not None else (dy, torch.zeros_like(rates))

    rates = torch.linspace(0.5, 2, B, dtype=torch.float64)
    y0 = torch.ones(B, 2, dtype=torch.float64)
    held = rates.clone().requires_grad_()
    y, _ = pysemi.odeint_adjoint(
        Rates(), (y0, held), T, backend=backend, batch="independent", adjoint_params=()
    )
    assert torch.allclose(y[-1], torch.exp(-rates)[:, None].expand(B, 2), rtol=1e-6)
    y[-1].sum().backward()
    assert torch.allclose(held.grad, -2 * torch.exp(-rates), rtol=1e-5)
    forget_compilations()
    with pytest.raises(ArgumentError, match="belongs into the state"):
        pysemi.odeint_adjoint(
            Rates(rates), y0, T, backend=backend, batch="independent", adjoint_params=()
        )


@pytest.mark.parametrize(
    ("backend", "bridge"),
    [
        ("torch", "auto"),
        pytest.param("julia", "auto", marks=pytest.mark.julia),
        pytest.param("julia", "callback", marks=pytest.mark.julia),
    ],
    indirect=["backend"],
)
def test_a_field_that_mixes_trajectories_is_refused(backend, bridge):
    class Mixing(nn.Module):
        def forward(self, t, y):
            return -y + y.mean(dim=0)

    # Solved alone before: what is known of the compiled field does not count.
    pysemi.odeint(Mixing(), states(2)[:1], T, backend=backend, bridge=bridge)
    with pytest.raises(ArgumentError, match="mixes the trajectories"):
        pysemi.odeint(Mixing(), states(2), T, backend=backend, bridge=bridge, batch="independent")


def test_a_field_for_one_trajectory_alone_and_one_that_draws_random_numbers_are_let_pass():
    class Single(nn.Module):
        def forward(self, t, y):
            assert y.shape == (1, 2)
            return -y

    class Noisy(nn.Module):
        def forward(self, t, y):
            return -y + 1e-9 * torch.rand_like(y)

    for field in (Single(), Noisy()):
        y = pysemi.odeint(
            field, states(2), T, backend="torch", batch="independent", rtol=1e-3, atol=1e-3
        )
        assert y.shape == (3, B, 2)


@BACKENDS
def test_a_failure_names_the_trajectory(backend):
    class Explosive(nn.Module):
        def forward(self, t, y):
            return y**2

    y0 = torch.tensor([[0.1], [0.2], [5.0], [0.3]], dtype=torch.float64)
    options = dict(backend=backend, batch="independent", adjoint_params=())
    with pytest.raises(pysemi.errors.SolveError, match="forward solve of trajectory 2") as caught:
        pysemi.odeint_adjoint(Explosive(), y0, times(0.0, 1.0), **options)
    assert caught.value.trajectory == 2
    assert not isinstance(caught.value, StepBudgetError)
    y0[2] = torch.nan
    with pytest.raises(NonFiniteStateError) as caught:
        pysemi.odeint_adjoint(Explosive(), y0, times(0.0, 1.0), **options)
    assert caught.value.trajectory == 2


@pytest.mark.parametrize(
    ("y0", "t", "more", "message"),
    [
        (states(2), T, dict(batch="separate"), "batch: 'separate' is not one of"),
        (torch.ones(()), T, {}, r"y0: has shape \(\); with batch"),
        ((states(2), torch.ones(B + 1)), T, {}, r"has shape \(5, 2\), \(6,\)"),
        (states(2), OWN_TIMES[:2], {}, r"t: has shape \(2, 3\).*or one of shape \(5, T\)"),
        (states(2), OWN_TIMES.clone().fill_(1.0), {}, r"t: t\[0\]\[0\] = t\[0\]\[1\] = 1"),
        (states(2), T[:2], dict(event_fn=lambda t, y: y.sum()), "event_fn: does not go with"),
        (states(2), OWN_TIMES, dict(batch="joint"), r"t: has shape \(5, 3\); give a 1-d tensor"),
        (states(2), T, dict(rtol=torch.ones(B, 2)), r"rtol: has shape \(5, 2\)"),
    ],
)
def test_what_makes_no_batch_is_refused(y0, t, more, message):
    options = {"batch": "independent", "adjoint_params": (), **more}
    with pytest.raises(ArgumentError, match=message):
        pysemi.odeint_adjoint(Decay(), y0, t, backend="torch", **options)
