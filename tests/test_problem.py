"""Each bad input gets one clear exception that names the argument and its value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pysemi
from pysemi.errors import (
    ArgumentError,
    NonFiniteStateError,
    PysemiError,
    SolveError,
    StepBudgetError,
    StepSizeUnderflowError,
)
from tests.vector_fields import Decay, Spiral, times

ONE = torch.ones(1, dtype=torch.float64)


def solve(func=None, y0=ONE, t=None, **kwargs):
    func = Decay() if func is None else func
    return pysemi.odeint_adjoint(func, y0, times(0, 1) if t is None else t, **kwargs)


BAD = {
    "func is no function": (dict(func=3, adjoint_params=()), "func: 3 is not callable"),
    "y0 is a list": (dict(y0=[ONE]), "y0: is a list"),
    "y0 is an empty tuple": (dict(y0=()), "y0: is an empty tuple"),
    "y0 is a number": (dict(y0=1.0), "y0: is a float"),
    "a component is no tensor": (dict(y0=(ONE, 2.0)), r"y0\[1\]: 2.0 is no tensor"),
    "y0 is integer": (dict(y0=torch.ones(1, dtype=torch.int64)), "y0: has dtype torch.int64"),
    "y0 is complex": (dict(y0=torch.ones(1, dtype=torch.complex64)), "view_as_real"),
    "a component is integer": (dict(y0=(ONE, torch.ones(1, dtype=torch.int8))), r"y0\[1\]"),
    "y0 is empty": (dict(y0=torch.ones(0, 3)), r"no elements \(shape \(0, 3\)\)"),
    "y0 on two devices": (dict(y0=(ONE, ONE.to("meta"))), "components on cpu, meta"),
    "t is a list": (dict(t=[0.0, 1.0]), r"t: \[0.0, 1.0\] is no tensor"),
    "t is integer": (dict(t=torch.tensor([0, 1])), "t: has dtype torch.int64"),
    "t is a scalar": (dict(t=torch.tensor(0.0)), r"t: has shape \(\)"),
    "t is empty": (dict(t=torch.tensor([])), r"t: has shape \(0,\)"),
    "t is not finite": (dict(t=times(0, float("nan"))), r"t\[1\] = nan is not finite"),
    "t repeats": (dict(t=times(0, 1, 1)), r"t\[1\] = t\[2\] = 1; times must not repeat"),
    "t turns around": (dict(t=times(0, 1, 0.5)), "from 1 to 0.5 at t\\[2\\]"),
    "t turns around later": (dict(t=times(2, 1, 1.5)), "from 1 to 1.5 at t\\[2\\]"),
    "rtol is negative": (dict(rtol=-1e-3), "rtol: -0.001"),
    "atol is not finite": (dict(atol=float("nan")), "atol: nan"),
    "rtol is a word": (dict(rtol="tight"), "rtol"),
    "rtol requires a gradient": (
        dict(rtol=torch.tensor(1e-3, requires_grad=True)),
        "rtol: requires a gradient",
    ),
    "both tolerances are zero": (dict(rtol=0, atol=0), "both 0"),
    "adjoint_rtol is negative": (dict(adjoint_rtol=-1.0), "adjoint_rtol: -1.0"),
    "adjoint_rtol has too few entries": (dict(adjoint_rtol=(1e-3, 1e-3)), "has 2 entries"),
    "a tuple of tolerances for one tensor": (dict(rtol=(1e-3,)), "needs a tuple state"),
    "options is a list": (dict(options=["norm"]), "options"),
    "the step budget is zero": (dict(options={"max_num_steps": 0}), r"\['max_num_steps'\]: 0"),
    "the step budget is a word": (dict(options={"max_num_steps": "few"}), "'few'"),
    "the method is unknown": (dict(method="Tsit5"), "'Tsit5' is not one of torchdiffeq's"),
    "the adjoint method is unknown": (dict(adjoint_method="Tsit5"), "adjoint_method: 'Tsit5'"),
    "adjoint options are missing": (
        dict(method="rk4", options={"step_size": 0.1}, adjoint_method="dopri5"),
        "adjoint_options: missing",
    ),
    "seminorm in the wrong place": (dict(options={"norm": "seminorm"}), "adjoint_options"),
    "the norm is unknown": (dict(adjoint_options={"norm": "max"}), "'max' is no norm"),
    "the adjoint is unknown": (dict(adjoint="magic"), "adjoint: 'magic' is not one of"),
    "the adjoint is Julia's": (dict(adjoint="gauss", backend="torch"), "needs backend='julia'"),
    "the bridge is Julia's": (dict(bridge="compiled", backend="torch"), "bridge: 'compiled'"),
    "the controller is Julia's": (
        dict(options={"controller": "pi"}, backend="torch"),
        "controller",
    ),
    "the backend is unknown": (dict(backend="jax"), "backend: 'jax' is not one of"),
    "func is no module": (dict(func=lambda t, y: -y), "adjoint_params: missing"),
    "an adjoint parameter is no tensor": (
        dict(adjoint_params=[1.0]),
        r"adjoint_params\[0\]: 1.0 is no tensor",
    ),
    "an adjoint parameter is on another device": (
        dict(adjoint_params=[torch.ones(1, device="meta")]),
        "is on meta and y0 on cpu",
    ),
    "the event function is none": (dict(event_fn=3), "event_fn: 3 is not callable"),
    "an event with many times": (
        dict(event_fn=lambda t, y: y[0], t=times(0, 1, 2)),
        "has 3 entries; with event_fn give two",
    ),
    "func returns another shape": (
        dict(func=lambda t, y: torch.ones(3, dtype=torch.float64), adjoint_params=()),
        r"shape \(3,\), and the state has shape \(1,\)",
    ),
    "func returns no tensor": (dict(func=lambda t, y: 0.0, adjoint_params=()), "not a tensor"),
    "func returns too few components": (
        dict(func=lambda t, y: (y[0],), y0=(ONE, ONE), adjoint_params=()),
        "2 components",
    ),
    "func returns a tensor for a tuple": (
        dict(func=lambda t, y: y[0], y0=(ONE, ONE), adjoint_params=()),
        "one derivative per component",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_value(case):
    kwargs, message = BAD[case]
    with pytest.raises(ArgumentError, match=message):
        solve(**kwargs)


def test_an_argument_error_is_a_value_error_that_knows_its_argument():
    with pytest.raises(ValueError, match="rtol") as caught:
        solve(rtol=-1)
    assert isinstance(caught.value, PysemiError)
    assert caught.value.argument == "rtol"


class BlowUp(nn.Module):
    """y' = y², from 1: infinite at t = 1."""

    def forward(self, t, y):
        return y**2


class Sqrt(nn.Module):
    """Real until y reaches 0, which it does at t = 2."""

    def forward(self, t, y):
        return -torch.sqrt(y)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_solve_may_take_so_many_steps_and_no_more(direction):
    budget = {"max_num_steps": 3}
    key = "options" if direction == "forward" else "adjoint_options"
    with pytest.raises(StepBudgetError) as caught:
        solve(Spiral(), torch.ones(2, dtype=torch.float64), times(0, 5), **{key: budget})[
            -1
        ].sum().backward()
    error = caught.value
    assert error.direction == direction
    assert error.t is not None
    assert error.dt is not None
    assert error.error_norm is not None
    assert "3 steps" in str(error)
    assert "max_num_steps" in str(error)


@pytest.mark.parametrize("method", ["dopri5", "scipy_solver"])
@pytest.mark.parametrize("t", [times(0, 2), times(2, 0)], ids=["increasing", "decreasing"])
def test_a_backward_failure_names_the_users_time(method, t):
    out = solve(
        Spiral(),
        torch.ones(2, dtype=torch.float64),
        t,
        adjoint_method=method,
        adjoint_options={"max_num_steps": 2},
    )
    with pytest.raises(StepBudgetError) as caught:
        out[-1].sum().backward()
    assert 0 <= caught.value.t <= 2
    assert abs(caught.value.t - float(t[-1])) < abs(caught.value.t - float(t[0]))


def test_the_step_budget_covers_all_intervals_together():
    steps = sum(s.accepted + s.rejected for s in _forward(times(0, 1, 2, 3)))
    with pytest.raises(StepBudgetError):
        _forward(times(0, 1, 2, 3), max_num_steps=steps - 1)
    assert len(_forward(times(0, 1, 2, 3), max_num_steps=steps)) == 1


def _forward(t, **options):
    with pysemi.record() as recording, torch.no_grad():
        solve(Spiral(), torch.ones(2, dtype=torch.float64), t, options=options)
    return recording.forward


def test_a_fixed_grid_has_no_step_budget_unless_one_is_given():
    options = {"step_size": 1e-3}
    solve(method="rk4", options=options)
    with pytest.raises(StepBudgetError):
        solve(method="rk4", options={**options, "max_num_steps": 10})


def test_a_solution_that_blows_up_ends_with_the_place():
    with pytest.raises((StepSizeUnderflowError, NonFiniteStateError, StepBudgetError)) as caught:
        solve(BlowUp(), t=times(0, 2))
    assert caught.value.t == pytest.approx(1.0, abs=1e-3)


def test_a_vector_field_that_becomes_nan_is_named_as_the_cause():
    with pytest.raises(NonFiniteStateError, match="vector field") as caught:
        solve(lambda t, y: torch.where(t > 0.5, y * float("nan"), -y), adjoint_params=())
    assert caught.value.direction == "forward"


def test_a_nan_in_the_initial_state_is_named_as_the_cause():
    with pytest.raises(NonFiniteStateError):
        solve(y0=ONE * float("nan"))


def test_a_nan_in_the_cotangents_dynamics_is_named_as_the_cause():
    out = solve(Sqrt(), torch.zeros(1, dtype=torch.float64).requires_grad_())
    with pytest.raises(NonFiniteStateError) as caught:
        out[-1].sum().backward()
    assert caught.value.direction == "backward"


def test_a_nan_gradient_of_a_parameter_alone_is_not_handed_out():
    class Hidden(nn.Module):
        """Finite, and so is its Jacobian; but d/dθ sqrt(θ) at 0 is not."""

        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, t, y):
            return -y + torch.sqrt(self.theta) * 0

    out = solve(Hidden(), adjoint_options={"norm": "seminorm"})
    with pytest.raises(NonFiniteStateError, match=r"gradient|state"):
        out[-1].sum().backward()


def test_an_infinite_cotangent_is_the_callers_affair():
    y = ONE.clone().requires_grad_()
    out = solve(y0=y, method="rk4", options={"step_size": 0.1})
    out[-1].backward(torch.tensor([float("inf")], dtype=torch.float64))
    assert not torch.isfinite(y.grad).all()


def test_a_fixed_grid_that_overflows_says_by_when():
    with pytest.raises(NonFiniteStateError) as caught:
        solve(lambda t, y: 1e300 * y**3, t=times(0, 1, 2), method="euler", adjoint_params=())
    assert caught.value.t == 2.0  # at 1 it is 1e300, whose cube is not


def test_scipy_giving_up_is_not_taken_for_a_solution():
    with pytest.raises(SolveError, match="gave up after"), torch.no_grad():
        pysemi.odeint(
            BlowUp(), ONE, times(0, 0.5, 2), method="scipy_solver", options={"solver": "RK45"}
        )


def test_a_method_that_reports_no_steps_has_a_budget_of_evaluations():
    with pytest.raises(StepBudgetError, match="500 steps"), torch.no_grad():
        pysemi.odeint(
            BlowUp(), ONE, times(0, 2), method="scipy_solver", options={"max_num_steps": 500}
        )


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_an_event_that_never_comes_ends(method):
    options = {"step_size": 1e-3} if method == "rk4" else {"max_num_steps": 50}
    with pytest.raises(StepBudgetError):
        pysemi.odeint_event(
            Decay(),
            ONE,
            times(0)[0],
            event_fn=lambda t, y: y[0] + 1,
            method=method,
            options=options,
        )


def test_a_solve_error_is_the_assertion_error_that_torchdiffeq_raises():
    with pytest.raises(AssertionError):
        solve(BlowUp(), t=times(0, 2))


def test_errors_of_the_vector_field_come_out_as_they_are():
    def broken(t, y):
        raise ZeroDivisionError("mine")

    def asserting(t, y):
        raise AssertionError("mine too")

    with pytest.raises(ZeroDivisionError, match="mine"):
        solve(broken, adjoint_params=())
    with pytest.raises(AssertionError, match="mine too") as caught:
        solve(asserting, adjoint_params=())
    assert not isinstance(caught.value, SolveError)
