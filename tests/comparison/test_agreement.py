"""Julia against torch: models x norms x adjoints x dtypes x bridges, on a real Julia."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch

from pysemi.comparison import MODELS, STIFF_MODELS, Setting, build, compare
from pysemi.comparison.measure import on_julia, on_torch, reference

pytestmark = [
    pytest.mark.julia,
    pytest.mark.usefixtures("real_julia"),
    # A new state of julia/PySemi is compiled first, which takes minutes.
    pytest.mark.timeout(600),
]

DTYPES = (torch.float64, torch.float32)
NORMS = ("default", "seminorm", "rms")
BRIDGES = ("compiled", "callback")
PAPERS = ("spiral", "cde", "cde-linear", "hamiltonian", "cnf", "van-der-pol")
WAYS = [
    *product(NORMS, ("backsolve", "gauss"), BRIDGES),
    *product(NORMS, ("interpolating",), ("compiled",)),
    # The norm of the one is the forward solve's, and of the other it makes little difference.
    *product(("default",), ("discrete", "quadrature"), BRIDGES),
]
"""Norm, adjoint, bridge."""


def set_apart(names, others):
    return [name for name in names if name not in others]


@cache
def solved_by_torch(name, setting, t_gradient):
    return on_torch(build(name).to(setting.dtype), setting, t_gradient)


def compared(name, setting):
    """Compare, but solve on torch only once what does not depend on Julia's settings."""
    own = Setting(dtype=setting.dtype, norm=setting.norm)
    return compare(
        name, setting, torch_solver=lambda _, __, t_gradient: solved_by_torch(name, own, t_gradient)
    )


def identify(value):
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


@pytest.mark.parametrize(
    ("name", "dtype", "norm", "adjoint", "bridge"),
    [
        *((name, dtype, *way) for name, dtype, way in product(PAPERS, DTYPES, WAYS)),
        *(
            (name, dtype, *way)
            for name, dtype, way in product(
                set_apart(MODELS, PAPERS),
                DTYPES,
                [("seminorm", "backsolve", "compiled"), ("default", "discrete", "compiled")],
            )
        ),
    ],
    ids=identify,
)
def test_loss_and_gradients_agree(name, dtype, norm, adjoint, bridge):
    found = compared(name, Setting(dtype=dtype, norm=norm, adjoint=adjoint, bridge=bridge))
    assert found.disagreements == []
    for stats in (found.julia.forward, found.julia.backward):
        assert stats.backend == "julia"
        assert stats.bridge == bridge
    assert found.julia.backward.adjoint == adjoint
    assert found.julia.backward.norm == norm
    # Both are as close to the truth: agreeing on a wrong gradient is not enough.
    _, from_reference = found.from_reference
    assert max(from_reference.named().values()) <= found.bound
    # No small parameter tensor hides behind a large one.
    assert max(from_reference.params.values()) <= 20 * found.bound


@pytest.mark.parametrize(
    ("name", "dtype", "adjoint", "bridge"),
    [
        *product(STIFF_MODELS, DTYPES, ("quadrature",), ("compiled",)),
        *product(STIFF_MODELS, (torch.float64,), ("quadrature",), ("callback",)),
    ],
    ids=identify,
)
def test_stiff_models_have_the_gradients_of_their_sensitivities(name, dtype, adjoint, bridge):
    found = compared(name, Setting(dtype=dtype, adjoint=adjoint, bridge=bridge))
    assert found.disagreements == []
    assert found.julia.forward.method == "Rodas5P"
    assert found.julia.backward.adjoint == adjoint
    _, from_reference = found.from_reference
    assert max(from_reference.named().values()) <= found.bound
    # No explicit method would do with so few.
    assert found.julia.forward.accepted + found.julia.backward.accepted < 1000


def test_a_component_that_stays_small_needs_a_tolerance_of_its_own():
    case = build("robertson")
    expected = reference("robertson", torch.float64).y0
    off = [
        float((on_julia(each, Setting(), False).gradient.y0 - expected).abs().max())
        for each in (case, replace(case, sizes=None))
    ]
    assert 20 * off[0] < off[1] < 1e-6


@pytest.mark.parametrize(
    ("name", "dtype", "norm"), list(product(MODELS, DTYPES, NORMS)), ids=identify
)
def test_under_torchdiffeq_control_the_steps_are_the_same(name, dtype, norm):
    setting = Setting(dtype=dtype, norm=norm, controller="torchdiffeq", bridge="compiled")
    found = compared(name, setting)
    assert found.disagreements == []
    if dtype == torch.float64:
        # The same steps, and so the same numbers but for rounding.
        for direction in ("forward", "backward"):
            theirs, ours = getattr(found.torch, direction), getattr(found.julia, direction)
            assert (ours.accepted, ours.rejected) == (theirs.accepted, theirs.rejected)
        assert max(found.between.loss, found.between.y0, found.between.theta) < 1e-11


@pytest.mark.parametrize("name", ["spiral", "cde-linear", "van-der-pol"])
@pytest.mark.parametrize("adjoint", ["interpolating", "gauss", "quadrature", "discrete"])
def test_adjoints_go_through_a_solution_with_torchdiffeq_steps(name, adjoint):
    # Between the observations it is the method's interpolant that they go by.
    found = compared(name, Setting(adjoint=adjoint, controller="torchdiffeq"))
    assert found.disagreements == []
    theirs, ours = found.torch.forward, found.julia.forward
    assert (ours.accepted, ours.rejected) == (theirs.accepted, theirs.rejected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("method", "rtol"), [("bosh3", 1e-7), ("Tsit5", 1e-10), ("Vern7", 1e-10)])
def test_other_methods_agree_too(name, method, rtol):
    controller = "torchdiffeq" if method == "bosh3" else "default"
    found = compare(name, Setting(method=method, rtol=rtol, controller=controller))
    if (name, method) != ("attention", "bosh3"):
        assert found.disagreements == []
        return
    # torchdiffeq integrates dL/dt, by steps too coarse for it here: its is the farther one from
    # the truth. All else agrees.
    from_torch, from_julia = found.from_reference
    assert from_julia.t < from_torch.t
    assert max(found.between.loss, found.between.y0, found.between.theta) < 1e-11


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("adjoint", ["backsolve", "gauss", "discrete"])
def test_asking_for_the_time_gradient_changes_nothing_else(name, adjoint):
    case = build(name)
    setting = Setting(adjoint=adjoint)
    without, with_time = (on_julia(case, setting, asked) for asked in (False, True))
    assert torch.equal(without.gradient.y0, with_time.gradient.y0)
    assert torch.equal(without.gradient.theta, with_time.gradient.theta)
    assert without.backward.accepted == with_time.backward.accepted
    assert without.gradient.t is None


@pytest.mark.parametrize("name", MODELS)
def test_both_bridges_take_the_same_steps(name):
    case = build(name)
    setting = Setting(norm="seminorm")
    compiled, callback = (
        on_julia(case, replace(setting, bridge=bridge), False) for bridge in BRIDGES
    )
    for direction in ("forward", "backward"):
        a, b = getattr(compiled, direction), getattr(callback, direction)
        assert (a.nfe, a.nvjp, a.accepted, a.rejected) == (b.nfe, b.nvjp, b.accepted, b.rejected)
    scale = callback.gradient.theta.abs().max()
    assert (compiled.gradient.theta - callback.gradient.theta).abs().max() <= 1e-11 * scale


def test_where_the_field_jumps_the_time_gradient_is_right_too():
    # torchdiffeq's is not: it integrates ∂f/∂t, which does not see the jumps.
    case = build("cde-linear")
    expected = on_julia(case, Setting(), True).gradient.t

    def loss(t):
        return on_julia(replace(case, t=t), Setting(rtol=1e-12), False).gradient.loss

    step = 1e-5
    shift = torch.zeros_like(case.t)
    shift[1] = step  # inside a piece
    inner = (loss(case.t + shift) - loss(case.t - shift)) / (2 * step)
    assert float(expected[1]) == pytest.approx(inner, rel=1e-4)
    shift[:2] = torch.tensor([step, 0.0])  # from within the first piece
    first = (loss(case.t + shift) - loss(case.t)) / step
    assert float(expected[0]) == pytest.approx(first, rel=1e-3)
