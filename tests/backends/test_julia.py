"""The Julia backend does what the torch backend does, for everything a caller may ask.

Under torchdiffeq's step control both take the same steps, so results agree to rounding;
otherwise to the tolerance.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pysemi
from pysemi.errors import (
    DoubleBackwardError,
    SolveError,
    StepBudgetError,
)
from tests.vector_fields import Decay, Flow, Spiral, times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

SAME_STEPS = dict(
    options=dict(controller="torchdiffeq"), adjoint_options=dict(controller="torchdiffeq")
)


def spiral(batch=4, dtype=torch.float64):
    return Spiral(dtype=dtype), torch.linspace(-1, 1, 2 * batch, dtype=dtype).view(batch, 2)


def gradients(field, y0, t, backend, *, loss=None, params=None, **options):
    """Solution, gradients of all that requires one, and what the solves cost."""
    field_params = [p for p in field.parameters() if p.requires_grad] if params is None else params
    state = tuple(
        x.detach().clone().requires_grad_() for x in (y0 if isinstance(y0, tuple) else (y0,))
    )
    t = t.detach().clone().requires_grad_()
    extra = {} if params is None else {"adjoint_params": tuple(params)}
    with pysemi.record() as solves:
        y = pysemi.odeint_adjoint(
            field,
            state if isinstance(y0, tuple) else state[0],
            t,
            backend=backend,
            **{"rtol": 1e-8, "atol": 1e-8, **extra, **options},
        )
        value = sum((x**2).sum() for x in (y if isinstance(y, tuple) else (y,)))
        found = torch.autograd.grad(
            value if loss is None else loss(y), [*state, t, *field_params], allow_unused=True
        )
    return y, found, solves


def assert_same(field, y0, t, tolerance=1e-9, **options):
    options = {**SAME_STEPS, **options}
    ours = gradients(field, y0, t, "julia", **options)
    theirs = gradients(field, y0, t, "torch", **options)
    for a, b in zip(
        ours[0] if isinstance(y0, tuple) else (ours[0],),
        theirs[0] if isinstance(y0, tuple) else (theirs[0],),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    place_of_t = len(y0) if isinstance(y0, tuple) else 1
    for place, (a, b) in enumerate(zip(ours[1], theirs[1], strict=True)):
        # torchdiffeq integrates dL/dt, pysemi's Julia backend has it exactly.
        b = torch.zeros_like(a) if b is None else b
        bound = 1e-6 if place == place_of_t else tolerance
        assert torch.allclose(a, b, rtol=bound, atol=bound * float(b.abs().max()) + 1e-12)
    for direction in ("forward", "backward"):
        (one,), (two,) = getattr(ours[2], direction), getattr(theirs[2], direction)
        assert (one.accepted, one.rejected) == (two.accepted, two.rejected), direction
    return ours


def test_tensor_state():
    field, y0 = spiral()
    assert_same(field, y0, times(0.0, 0.4, 1.0))


def test_tuple_state_with_components_of_different_shapes():
    field = Flow()
    y0 = (torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3), torch.zeros(4).double())
    assert_same(field, y0, times(0.0, 0.4, 1.0))


def test_a_state_of_shape_empty_and_one_of_five_dimensions():
    assert_same(Decay(), torch.tensor(2.0, dtype=torch.float64), times(0.0, 1.0))
    assert_same(Decay(), torch.rand(1, 2, 1, 3, 2, dtype=torch.float64), times(0.0, 1.0))


def test_bogacki_and_shampine_s_method_takes_torchdiffeq_s_steps_too():
    # Without dL/dt, and of a field without time: torchdiffeq's norm looks at the adjoint of time
    # as well, which at this order decides some of the steps (docs/torchdiffeq.md).
    results = []
    for backend in ("torch", "julia"):
        field = Flow()
        z = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3).requires_grad_()
        with pysemi.record() as solves:
            y, log_density = pysemi.odeint_adjoint(
                field,
                (z, torch.zeros(4).double()),
                times(0.0, 0.4, 1.0),
                method="bosh3",
                rtol=1e-6,
                atol=1e-6,
                backend=backend,
                **SAME_STEPS,
            )
            ((y**2).sum() + (log_density**2).sum()).backward()
        counts = [(s.accepted, s.rejected) for s in (*solves.forward, *solves.backward)]
        results.append((z.grad, field.weight.grad, counts))
    (z_torch, weight_torch, steps_torch), (z_julia, weight_julia, steps_julia) = results
    assert steps_julia == steps_torch
    assert torch.allclose(z_julia, z_torch, rtol=1e-11, atol=1e-11)
    assert torch.allclose(weight_julia, weight_torch, rtol=1e-11, atol=1e-11)


def test_decreasing_times_and_many_observations():
    field, y0 = spiral()
    assert_same(field, y0, torch.linspace(1, -1, 40, dtype=torch.float64))
    assert_same(field, y0, times(1.0, 0.0))


def test_a_single_time_returns_the_state_and_passes_its_gradient_on():
    field, y0 = spiral()
    y, found, _ = gradients(field, y0, times(0.5), "julia")
    assert torch.equal(y[0], y0)
    assert torch.equal(found[0], 2 * y0)
    assert all(x is None or not x.any() for x in found[2:])


def test_a_state_that_does_not_lie_together():
    field, y0 = spiral()
    spread = torch.stack([y0, y0], dim=-1)[..., 0]
    assert not spread.is_contiguous()
    assert_same(field, spread, times(0.0, 1.0))
    assert_same(field, y0.T.contiguous().T, times(0.0, 1.0))
    assert_same(field, y0[:1].expand(4, 2), times(0.0, 1.0))


@pytest.mark.parametrize("norm", ["default", "rms", "seminorm"])
def test_named_norms_of_the_backward_solve(norm):
    field, y0 = spiral()
    assert_same(
        field, y0, times(0.0, 0.3, 1.0), adjoint_options=dict(controller="torchdiffeq", norm=norm)
    )


def test_state_norms_forward_and_backward():
    field = Flow()
    y0 = (torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3), torch.zeros(4).double())
    weights = torch.tensor([1.0, 0.0, 2.0])
    for norm in (pysemi.StateNorm([True, False]), pysemi.StateNorm([weights, 0.5])):
        for backward in (norm, "default", "seminorm"):
            assert_same(
                field,
                y0,
                times(0.0, 1.0),
                options=dict(controller="torchdiffeq", norm=norm),
                adjoint_options=dict(controller="torchdiffeq", norm=backward),
            )


def test_callable_norms_are_called_with_what_torchdiffeq_passes():
    field, y0 = spiral()
    seen = []

    def forward_norm(y):
        assert y.shape == y0.shape
        return y.abs().max()

    def backward_norm(state):
        y, a_y = state[1:3]
        seen.append([x.shape for x in state])
        return max(y.abs().max(), a_y.abs().max())

    for backend in ("torch", "julia"):
        seen.clear()
        gradients(
            field,
            y0,
            times(0.0, 1.0),
            backend,
            options=dict(norm=forward_norm),
            adjoint_options=dict(norm=backward_norm),
        )
        expected = [torch.Size([]), y0.shape, y0.shape, *[p.shape for p in field.parameters()]]
        assert seen[0] == expected, backend
    assert_same(
        field,
        y0,
        times(0.0, 1.0),
        options=dict(controller="torchdiffeq", norm=forward_norm),
        adjoint_options=dict(controller="torchdiffeq", norm=backward_norm),
    )


def test_an_exception_of_a_norm_comes_out_as_itself():
    field, y0 = spiral()

    def norm(y):
        raise ZeroDivisionError("in the norm")

    with pytest.raises(ZeroDivisionError, match="in the norm"):
        gradients(field, y0, times(0.0, 1.0), "julia", options=dict(norm=norm))


def test_tolerances_per_channel_and_per_part():
    field, y0 = spiral()
    per_channel = torch.logspace(-9, -6, 8, dtype=torch.float64).view(4, 2)
    assert_same(field, y0, times(0.0, 1.0), rtol=per_channel, atol=per_channel)
    count = 3 + len(list(field.parameters()))
    assert_same(
        field,
        y0,
        times(0.0, 1.0),
        adjoint_rtol=tuple(10.0 ** -(6 + i % 3) for i in range(count)),
        adjoint_atol=1e-8,
    )


def test_frozen_parameters_get_no_gradient_and_are_read():
    field, y0 = spiral()
    field.net[0].weight.requires_grad_(False)
    assert_same(field, y0, times(0.0, 1.0))
    before, *_ = gradients(field, y0, times(0.0, 1.0), "julia")
    with torch.no_grad():
        field.net[0].weight.mul_(2)
    after, *_ = gradients(field, y0, times(0.0, 1.0), "julia")
    assert not torch.allclose(before, after)


def test_parameters_outside_the_module():
    outside = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    inner, y0 = spiral()

    class Field(nn.Module):
        def forward(self, t, y):
            return inner(t, y) * outside

    assert_same(Field(), y0, times(0.0, 1.0), params=[outside, *inner.parameters()])


def test_a_parameter_that_is_itself_a_result():
    base = torch.tensor([0.3, 0.5], dtype=torch.float64, requires_grad=True)

    def solve(backend):
        rates = torch.exp(base)
        y = pysemi.odeint_adjoint(
            lambda t, y: -rates * y,
            torch.ones(3, 2, dtype=torch.float64),
            times(0.0, 1.0),
            rtol=1e-9,
            atol=1e-9,
            adjoint_params=(rates,),
            backend=backend,
        )
        return torch.autograd.grad(y[-1].sum(), base)[0]

    assert torch.allclose(solve("julia"), solve("torch"), rtol=1e-7)


def test_no_parameters_at_all():
    field, y0 = spiral()
    assert_same(field, y0, times(0.0, 1.0), params=[])
    for norm in ("rms", "seminorm"):
        assert_same(
            field,
            y0,
            times(0.0, 1.0),
            params=[],
            adjoint_options=dict(controller="torchdiffeq", norm=norm),
        )


def test_a_loss_of_the_last_state_alone_and_of_one_in_the_middle():
    field, y0 = spiral()
    for pick in (-1, 1, 0):
        assert_same(field, y0, times(0.0, 0.5, 1.0), loss=lambda y, pick=pick: y[pick].sum())


def test_weights_changed_between_solves_and_between_forward_and_backward():
    field, y0 = spiral()
    t = times(0.0, 1.0)
    y1 = pysemi.odeint_adjoint(field, y0, t, backend="julia", rtol=1e-9, atol=1e-9)
    other, _ = spiral()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    # Shares the compiled field; its parameters must not leak into the first one's gradient.
    pysemi.odeint_adjoint(other, y0, t, backend="julia")
    y1.sum().backward()
    _, expected, _ = gradients(field, y0, t, "torch", loss=lambda y: y.sum())
    for parameter, right in zip(field.parameters(), expected[2:], strict=True):
        assert torch.allclose(parameter.grad, right, rtol=1e-5, atol=1e-7)
    y2 = pysemi.odeint_adjoint(field, y0, t, backend="julia")
    with torch.no_grad():
        next(field.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y2.sum().backward()


def test_a_graph_may_be_used_twice_and_summed():
    field, y0 = spiral()
    y = pysemi.odeint_adjoint(field, y0, times(0.0, 1.0), backend="julia")
    y.sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in field.parameters()]
    y.sum().backward()
    for parameter, first in zip(field.parameters(), once, strict=True):
        assert torch.allclose(parameter.grad, 2 * first)


def test_the_gradients_do_not_share_memory():
    field, y0 = spiral()
    _, found, _ = gradients(field, y0, times(0.0, 1.0), "julia")
    storages = [x.untyped_storage().data_ptr() for x in found]
    assert len(set(storages)) == len(storages)


def test_a_second_derivative_is_refused():
    field, y0 = spiral()
    y0.requires_grad_()
    y = pysemi.odeint_adjoint(field, y0, times(0.0, 1.0), backend="julia")
    (first,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(DoubleBackwardError):
        first.sum().backward()


def test_an_infinite_cotangent_passes_as_nan():
    field, y0 = spiral()
    y = pysemi.odeint_adjoint(field, y0, times(0.0, 1.0), backend="julia")
    (y.sum() * torch.inf).backward()
    assert not next(field.parameters()).grad.isfinite().any()


def test_odeint_runs_without_gradients():
    field, y0 = spiral()
    t = times(0.0, 0.5, 1.0)
    with torch.no_grad():
        y = pysemi.odeint(field, y0, t, backend="julia", rtol=1e-9, atol=1e-9)
        expected = pysemi.odeint(field, y0, t, backend="torch", rtol=1e-9, atol=1e-9)
    assert torch.allclose(y, expected, atol=1e-7)
    with torch.inference_mode():
        inferred = pysemi.odeint_adjoint(field, y0, t, backend="julia", rtol=1e-9, atol=1e-9)
    assert torch.allclose(inferred, expected, atol=1e-7)


@pytest.mark.parametrize("bridge", ["compiled", "callback"])
def test_statistics_tile_the_interval(bridge):
    field, y0 = spiral()
    _, _, solves = gradients(field, y0, times(0.0, 0.3, 1.0), "julia", bridge=bridge)
    for (stats,), start in ((solves.forward, 0.0), (solves.backward, 1.0)):
        assert (stats.backend, stats.bridge, stats.method) == ("julia", bridge, "DP5")
        assert stats.accepted == len(stats.step_times) == len(stats.step_sizes)
        assert stats.rejected == len(stats.rejected_times)
        assert stats.nfe == len(stats.evaluation_times)
        assert stats.step_sizes.sum() == pytest.approx(1.0)
        assert stats.step_times[0] == start
        assert stats.seconds > 0
    assert solves.forward[0].nvjp == 0
    assert solves.backward[0].adjoint == "backsolve"


def test_the_step_budget_counts_forward_and_backward():
    field, y0 = spiral()
    with pytest.raises(StepBudgetError) as caught:
        gradients(field, y0, times(0.0, 30.0), "julia", options=dict(max_num_steps=5))
    assert caught.value.direction == "forward"
    assert 0 < caught.value.t < 30
    for adjoint in ("backsolve", "interpolating", "gauss", "quadrature"):
        with pytest.raises(StepBudgetError) as caught:
            gradients(
                field,
                y0,
                times(0.0, 30.0),
                "julia",
                adjoint=adjoint,
                options={},
                adjoint_options=dict(max_num_steps=5),
            )
        assert caught.value.direction == "backward"


def test_a_state_that_blows_up_says_where():
    class BlowUp(nn.Module):
        def forward(self, t, y):
            return y**2

    for options in ({}, dict(controller="torchdiffeq")):
        with pytest.raises(SolveError) as caught:
            pysemi.odeint_adjoint(
                BlowUp(),
                torch.ones(2, dtype=torch.float64),
                times(0.0, 3.0),
                adjoint_params=(),
                options=options,
                backend="julia",
            )
        assert caught.value.t == pytest.approx(1.0, abs=1e-3)
        assert caught.value.direction == "forward"

    class NotANumber(nn.Module):
        def forward(self, t, y):
            return torch.sqrt(y) * 0 - 1

    for options in ({}, dict(controller="torchdiffeq")):
        with pytest.raises(SolveError) as caught:
            pysemi.odeint_adjoint(
                NotANumber(),
                torch.ones(2, dtype=torch.float64),
                times(0.0, 30.0),
                adjoint_params=(),
                options=options,
                backend="julia",
            )
        assert caught.value.t <= 1.0


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "tsit5", "Tsit5", "Vern7", "DP5", "BS5"])
@pytest.mark.parametrize(
    "adjoint", ["backsolve", "interpolating", "gauss", "quadrature", "discrete"]
)
def test_methods_and_adjoints_agree_with_torch(method, adjoint):
    field, y0 = spiral()
    options = {"options": {}, "adjoint_options": {}}
    tight = dict(rtol=1e-9, atol=1e-9)
    t = times(0.0, 0.5, 1.0)
    _, ours, _ = gradients(
        field, y0, t, "julia", method=method, adjoint=adjoint, **options, **tight
    )
    _, theirs, _ = gradients(field, y0, t, "torch", **options, **tight)
    bound = 1e-5 if method == "bosh3" else 1e-6
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=bound, atol=bound * float(b.abs().max()))


def test_a_jump_is_a_step_boundary_in_both_directions():
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t, y):
            return torch.where(t > 0.5, 3.0, 1.0) * self.rate * y

    jump = dict(jump_t=times(0.5))
    exact = torch.exp(times(2.0))
    for options in (jump, dict(jump, controller="torchdiffeq")):
        for adjoint in ("backsolve", "interpolating", "gauss", "quadrature"):
            if adjoint != "backsolve" and "controller" in options:
                continue
            for t in (times(0.0, 1.0), times(0.0, 0.5, 1.0), times(1.0, 0.0), times(1.0, 0.5, 0.0)):
                _, found, solves = gradients(
                    Switched(),
                    torch.ones(1, dtype=torch.float64),
                    t,
                    "julia",
                    loss=lambda y: y[-1].sum(),
                    adjoint=adjoint,
                    options=options,
                    adjoint_options=options,
                )
                ratio = exact if t[-1] > t[0] else 1 / exact
                assert torch.allclose(found[0], ratio, rtol=1e-6)
                for (stats,) in (solves.forward, solves.backward):
                    ends = stats.step_times[1:]
                    assert any(end == pytest.approx(0.5, abs=1e-15) for end in ends)


def test_events_as_on_torch():
    class Falling(nn.Module):
        def __init__(self):
            super().__init__()
            self.gravity = nn.Parameter(torch.tensor(9.8, dtype=torch.float64))

        def forward(self, t, y):
            velocity = y[1]
            return velocity, -self.gravity * torch.ones_like(velocity)

    def event(t, y):
        return torch.stack([y[0] - 0.2, y[1] + 100.0])

    results = []
    for backend in ("torch", "julia"):
        field = Falling()
        y0 = tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.0, 0.0))
        t0 = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        event_t, y = pysemi.odeint_event(
            field,
            y0,
            t0,
            event_fn=event,
            odeint_interface=pysemi.odeint_adjoint,
            rtol=1e-9,
            atol=1e-9,
            backend=backend,
        )
        (event_t + y[1][-1]).backward()
        results.append(
            torch.stack(
                [event_t, y[0][-1], y[1][-1], y0[0].grad, y0[1].grad, field.gravity.grad, t0.grad]
            )
        )
    assert torch.allclose(*results, rtol=1e-6)


def test_an_event_that_is_there_at_once_and_one_that_raises():
    y0, t0 = torch.ones(1, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    options = dict(odeint_interface=pysemi.odeint_adjoint, backend="julia")
    event_t, y = pysemi.odeint_event(Decay(), y0, t0, event_fn=lambda t, y: y[0] - 1, **options)
    assert event_t == t0
    assert torch.equal(y[-1], y0)
    with pytest.raises(ZeroDivisionError):
        pysemi.odeint_event(Decay(), y0, t0, event_fn=lambda t, y: 1 / 0, **options)
    with pytest.raises(StepBudgetError):
        pysemi.odeint_event(
            Decay(),
            y0,
            t0,
            event_fn=lambda t, y: y[0] + 1,
            options=dict(max_num_steps=50),
            **options,
        )


@pytest.mark.parametrize("adjoint", ["backsolve", "interpolating"])
def test_the_seminorm_saves_steps_wherever_parameters_are_channels(adjoint):
    field, y0 = spiral()
    t = times(0.0, 5.0)
    by_norm = {
        norm: gradients(
            field,
            y0,
            t,
            "julia",
            adjoint=adjoint,
            options={},
            adjoint_options=dict(norm=norm),
            loss=lambda y: 100 * (y[-1] ** 2).sum(),
        )
        for norm in ("default", "seminorm")
    }
    cost = {norm: solves.backward[0].nfe for norm, (_, _, solves) in by_norm.items()}
    assert cost["seminorm"] < 0.9 * cost["default"]
    for a, b in zip(by_norm["seminorm"][1], by_norm["default"][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


class Robertson(nn.Module):
    """Three reactions, with rates from 0.04 to 3e7."""

    def __init__(self) -> None:
        super().__init__()
        rates = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)
        self.log_rates = nn.Parameter(rates.log())

    def forward(self, t, y):
        k1, k2, k3 = self.log_rates.exp()
        a, b, c = y.unbind(-1)
        first, second, third = k1 * a, k2 * b * b, k3 * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)


@pytest.mark.parametrize("method", ["Rodas5P", "KenCarp4", "FBDF", "auto"])
def test_a_stiff_problem_and_the_gradient_of_its_rates(method):
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    t = times(0.0, 1e-2, 1.0, 1e2, 1e4)
    scale = torch.tensor([1.0, 1e4, 1.0], dtype=torch.float64)
    field = Robertson()
    tight = dict(method=method, adjoint="quadrature", backend="julia", rtol=1e-9, atol=1e-11)
    tight["adjoint_method"] = "Rodas5P" if method == "FBDF" else method

    def loss(log_rates):
        with torch.no_grad():
            field.log_rates.copy_(log_rates)
        return (pysemi.odeint_adjoint(field, y0, t, **tight) * scale).sum()

    center = field.log_rates.detach().clone()
    (found,) = torch.autograd.grad(loss(center), field.log_rates)
    steps = 1e-4 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        expected = [float(loss(center + step) - loss(center - step)) / 2e-4 for step in steps]
    assert torch.allclose(found, times(*expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (dict(adjoint="gauss"), "adjoint='quadrature'"),
        (dict(adjoint_options=dict(norm="seminorm")), "adjoint='quadrature'"),
        (dict(adjoint="quadrature", adjoint_method="KenCarp4"), "adjoint_method='Rodas5P'"),
    ],
)
def test_what_does_not_go_with_an_implicit_method_is_warned_of(wrong, remedy):
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    y = pysemi.odeint_adjoint(
        Robertson(), y0, times(0.0, 1.0), method="Rodas5P", backend="julia", **wrong
    )
    with pytest.warns(UserWarning, match=f"an implicit method.*use {remedy}"):
        y[-1].sum().backward()
