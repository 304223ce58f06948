"""The comparison itself: it finds nothing where there is nothing, and can find something."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pysemi.comparison import MODELS, Setting, compare
from pysemi.comparison.compare import differences
from pysemi.comparison.gradient import Gradient
from pysemi.comparison.measure import on_torch

F64, F32 = torch.float64, torch.float32


def gradient(loss=1.0, y0=(1.0, 2.0), w=(3.0,), b=(0.5,), t=(1.0,)):
    vector = {"dtype": F64}
    return Gradient(
        loss,
        torch.tensor(y0, **vector),
        {"w": torch.tensor(w, **vector), "b": torch.tensor(b, **vector)},
        None if t is None else torch.tensor(t, **vector),
    )


def stand_in(change=lambda measured: measured):
    """A Julia that is torch, but for a change to what it measured."""
    return lambda case, setting, t_gradient: change(on_torch(case, setting, t_gradient))


def other_gradient(**changes):
    return lambda measured: replace(measured, gradient=replace(measured.gradient, **changes))


def scaled(name, by):
    """A change of one part of the gradient by a relative amount."""

    def change(measured):
        value = getattr(measured.gradient, name)
        if value is None:
            return measured
        if isinstance(value, dict):
            return other_gradient(params={key: x * (1 + by) for key, x in value.items()})(measured)
        return other_gradient(**{name: value * (1 + by)})(measured)

    return change


def compared(setting=None, change=lambda measured: measured, name="spiral"):
    return compare(name, setting, julia_solver=stand_in(change))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [F64, F32])
def test_torch_agrees_with_torch_to_the_bit(name, dtype):
    found = compared(Setting(dtype=dtype, norm="seminorm", controller="torchdiffeq"), name=name)
    assert set(found.between.named().values()) == {0.0}
    assert set(found.between.params.values()) == {0.0}
    assert found.agree
    assert found.torch.backward.norm == "seminorm"
    assert (found.between.t is None) == (name == "cde-linear")
    from_torch, from_julia = found.from_reference
    assert from_torch == from_julia
    # It is a solve at the tolerance asked for, not the reference itself.
    assert 0 < from_torch.theta <= found.bound


@pytest.mark.parametrize(
    ("part", "what"),
    [("loss", "loss"), ("y0", "dL/dy0"), ("params", "dL/dθ"), ("t", "dL/dt")],
)
@pytest.mark.parametrize(("dtype", "bound"), [(F64, 1e-7), (F32, 1e-3)])
def test_a_wrong_part_is_a_disagreement_from_the_stated_bound_on(part, what, dtype, bound):
    setting = Setting(dtype=dtype)
    found = compared(setting, scaled(part, 1.1 * bound))
    assert found.bound == pytest.approx(bound)
    assert [text.split(" differs")[0] for text in found.disagreements] == [what]
    assert not found.agree
    assert compared(setting, scaled(part, 0.9 * bound)).agree


def test_the_bound_is_in_proportion_to_the_tolerance():
    found = compared(Setting(rtol=1e-6), scaled("y0", 5e-4))
    assert found.bound == pytest.approx(1e-3)
    assert found.agree


def test_a_nan_is_a_disagreement_and_no_broken_json():
    def spoil(measured):
        return other_gradient(y0=measured.gradient.y0 * float("nan"))(measured)

    found = compared(change=spoil)
    assert not found.agree
    shown = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert shown["differences"]["torch_julia"]["y0"] is None
    assert shown["agree"] is False


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("kind", ["accepted", "rejected"])
def test_other_steps_are_a_disagreement_under_torchdiffeq_control_alone(direction, kind):
    def more(by):
        def change(measured):
            stats = getattr(measured, direction)
            stats = replace(stats, **{kind: getattr(stats, kind) + by})
            return replace(measured, **{direction: stats})

        return change

    strict = Setting(controller="torchdiffeq")
    assert compared(strict, more(2)).agree  # of a few steps, two are no sign of anything
    (text,) = compared(strict, more(3)).disagreements
    assert direction in text
    assert kind in text
    assert compared(Setting(), more(3)).agree
    # Only the forward solve has torchdiffeq's steps where the adjoint is another.
    found = compared(Setting(controller="torchdiffeq", adjoint="gauss"), more(3))
    assert found.agree == (direction == "backward")


def test_of_many_steps_five_percent_may_differ():
    def accepted(count):
        return lambda measured: replace(measured, forward=replace(measured.forward, accepted=count))

    def found(theirs, ours):
        return compare(
            "spiral",
            Setting(controller="torchdiffeq"),
            torch_solver=stand_in(accepted(theirs)),
            julia_solver=stand_in(accepted(ours)),
        )

    assert found(200, 210).agree
    assert found(200, 190).agree
    assert not found(200, 211).agree
    assert not found(200, 189).agree


def test_a_difference_is_relative_to_the_largest_entry_of_all_of_its_vector():
    found = differences(gradient(), gradient(y0=(1.0, 2.5), b=(0.8,)), gradient(y0=(0.1, -4.0)))
    assert found.y0 == pytest.approx(0.5 / 4)
    assert found.theta == pytest.approx(0.3 / 3)
    assert found.params == {"w": 0.0, "b": pytest.approx(0.3 / 0.5)}
    assert found.t == found.loss == 0
    assert differences(gradient(t=None), gradient(), gradient()).t is None


def test_a_gradient_that_should_be_zero_is_not_measured_by_itself():
    zero = gradient(y0=(0.0, 0.0))
    assert differences(zero, zero, zero).y0 == 0
    assert differences(zero, gradient(y0=(0.0, 1e-300)), zero).y0 == float("inf")


def test_torch_has_no_adjoint_but_its_own_and_no_method_of_julia():
    found = compared(Setting(method="Tsit5", adjoint="gauss", bridge="callback"))
    assert found.torch.forward.method == "dopri5"
    assert found.torch.backward.adjoint == "backsolve"
    assert compared(Setting(method="bosh3", rtol=1e-5)).torch.backward.method == "bosh3"


def test_the_json_has_these_keys():
    found = compared(name="cnf").as_dict()
    assert list(found) == [
        "model", "agree", "disagreements", "bound", "dtype", "rtol", "atol", "norm", "controller",
        "differences", "reference", "torch", "julia",
    ]  # fmt: skip
    assert list(found["differences"]) == ["torch_julia", "torch_reference", "julia_reference"]
    for difference in found["differences"].values():
        assert list(difference) == ["loss", "y0", "theta", "t", "params"]
    assert "inner.layer.weight" in found["differences"]["torch_julia"]["params"]
    for side in ("torch", "julia"):
        assert list(found[side]) == ["loss", "seconds", "forward", "backward"]
        for direction in ("forward", "backward"):
            assert list(found[side][direction]) == [
                "method", "adjoint", "bridge", "norm", "nfe", "nvjp", "accepted", "rejected",
                "seconds",
            ]  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_time_is_no_channel_of_the_counted_solve():
    # torchdiffeq's norm would look at a_t, and the flow depends on time.
    case_norms = []

    def watch(case, setting, t_gradient):
        measured = on_torch(case, setting, t_gradient)
        case_norms.append((t_gradient, measured.backward.nfe))
        return measured

    found = compare("cde", torch_solver=watch, julia_solver=stand_in())
    assert [asked for asked, _ in case_norms] == [True, False]
    assert case_norms[1][1] == found.torch.backward.nfe < 0.9 * case_norms[0][1]
