"""The neural CDE is the paper's model, and its knots are the solver's jump times."""

from __future__ import annotations

import pytest
import torch
import torchcde

import pysemi
from pysemi.errors import ArgumentError
from pysemi.models import ControlledField, MatrixField, NeuralCDE

TIMES = torch.linspace(0, 4, 5)


def model(**kwargs) -> NeuralCDE:
    torch.manual_seed(0)
    settings = {"width": 8, "depth": 2, "solver": {"rtol": 1e-4, "atol": 1e-6}, **kwargs}
    return NeuralCDE(TIMES, 3, 4, 2, **settings)


def coefficients() -> torch.Tensor:
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1))
    return torchcde.linear_interpolation_coeffs(x, TIMES)


def test_the_papers_setting_has_the_papers_number_of_parameters():
    """88,940 in Table 1: 20 MFCCs and time, 10 words; sizes from the paper's public code."""
    paper = NeuralCDE(torch.arange(161.0), 21, 90, 10, width=40, depth=4)
    assert sum(p.numel() for p in paper.parameters()) == 88_940


def test_the_output_has_one_row_per_series():
    assert model()(coefficients()).shape == (6, 2)


@pytest.mark.parametrize("activation", ["relu", "silu", "softplus", "tanh"])
def test_the_adjoint_gives_every_parameter_the_gradient_of_torchcde(activation):
    ours = model(activation=activation, solver={"rtol": 1e-9, "atol": 1e-11})
    ours.double()
    x = coefficients().double()
    ours(x).pow(2).sum().backward()
    found = {name: p.grad.clone() for name, p in ours.named_parameters()}
    ours.zero_grad()

    class Vector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.g = ours.matrix_field

        def forward(self, t, z):
            return self.g(z)

    control = torchcde.LinearInterpolation(x, ours.times)
    # Where a step crosses a kink of ReLU, backprop through it is only first-order right: 5e-3 off
    # at this tolerance, 2e-4 at 1e-12. Its own adjoint is not.
    by_adjoint = activation == "relu"
    z = torchcde.cdeint(
        X=control,
        func=Vector(),
        z0=ours.initial(control.evaluate(0.0)),
        t=ours.times[[0, -1]],
        adjoint=by_adjoint,
        rtol=1e-9,
        atol=1e-11,
        options={"jump_t": control.grid_points},
    )
    ours.readout(z[:, -1]).pow(2).sum().backward()
    close = 1e-5 if by_adjoint else 1e-7
    for name, parameter in ours.named_parameters():
        assert (found[name] - parameter.grad).norm() <= close * parameter.grad.norm(), name


def test_no_step_crosses_a_knot():
    with pysemi.record() as recording:
        model()(coefficients()).sum().backward()
    for stats, sign in ((recording.forward[0], 1), (recording.backward[0], -1)):
        starts, ends = stats.step_times, stats.step_times + sign * stats.step_sizes
        for knot in TIMES[1:-1].tolist():
            low, high = (starts, ends) if sign == 1 else (ends, starts)
            assert not ((low < knot - 1e-6) & (high > knot + 1e-6)).any()


def test_a_cubic_control_is_smooth_and_needs_no_jumps():
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1))
    cubic = torchcde.hermite_cubic_coefficients_with_backward_differences(x, TIMES)
    assert model(interpolation="cubic")(cubic).shape == (6, 2)


def test_the_callers_solver_options_are_kept_and_not_changed():
    options = {"max_num_steps": 1}
    solver = {"options": options, "adjoint_options": {"norm": "seminorm"}}
    with pytest.raises(pysemi.errors.StepBudgetError):
        model(solver=solver)(coefficients())
    assert options == {"max_num_steps": 1}
    assert solver == {"options": options, "adjoint_options": {"norm": "seminorm"}}


def test_the_seminorm_of_the_solver_reaches_the_backward_solve():
    with pysemi.record() as recording:
        model(solver={"adjoint_options": {"norm": "seminorm"}})(coefficients()).sum().backward()
    assert recording.backward[0].norm == "seminorm"


def test_the_control_has_no_parameters_of_its_own():
    control = torchcde.LinearInterpolation(coefficients(), TIMES)
    field = ControlledField(MatrixField(3, 4, width=8, depth=1), control)
    assert {name.split(".")[0] for name, _ in field.named_parameters()} == {"matrix_field"}


@pytest.mark.parametrize(
    ("kwargs", "argument"),
    [
        ({"activation": "swish"}, "activation"),
        ({"depth": 0}, "depth"),
        ({"interpolation": "quintic"}, "interpolation"),
    ],
)
def test_settings_that_make_no_model_are_refused(kwargs, argument):
    with pytest.raises(ArgumentError, match=argument):
        model(**kwargs)
