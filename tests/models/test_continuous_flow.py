"""A continuous normalising flow is a density, and its noise belongs to one solve."""

from __future__ import annotations

import pytest
import torch

import pysemi
from pysemi.errors import ArgumentError
from pysemi.models.continuous_flow import ContinuousFlow, normal_log_prob
from pysemi.models.flow_fields import FlowField, ImageField, PointField
from pysemi.norms import StateNorm

TIGHT = {"rtol": 1e-8, "atol": 1e-8}


def points(**solver) -> ContinuousFlow:
    torch.manual_seed(0)
    flow = ContinuousFlow(PointField(2, 8, depth=2), (2,), solver={**TIGHT, **solver}).double()
    with torch.no_grad():  # far enough from the identity to be worth a test
        for parameter in flow.parameters():
            parameter.mul_(2)
    return flow


def images(trace: str, **solver) -> ContinuousFlow:
    torch.manual_seed(0)
    return ContinuousFlow(
        ImageField(2, 4), (2, 4, 4), trace=trace, solver={**TIGHT, **solver}
    ).double()


def some_points() -> torch.Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def some_images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)


def gradients(flow: ContinuousFlow, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    log_prob = flow(x)
    log_prob.sum().backward()
    slopes = [p.grad.clone() for p in flow.parameters()]
    flow.zero_grad()
    return (log_prob.detach(), x.grad, *slopes)


def test_the_density_integrates_to_one():
    axis = torch.linspace(-9, 9, 181, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], dim=-1).view(-1, 2)
    with torch.no_grad():
        density = points(rtol=1e-6, atol=1e-6)(grid).exp()
    assert (density - normal_log_prob(grid).exp()).abs().max() > 0.05  # it is not the base's
    assert float(density.sum()) * 0.1**2 == pytest.approx(1, abs=1e-5)


def test_the_base_is_reached_and_left_on_the_same_way():
    flow, x = points(), some_points()
    z, there = flow.to_base(x)
    back, again = flow.from_base(z)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(again, there, rtol=0, atol=1e-6)


def test_the_log_density_changes_by_the_logarithm_of_the_determinant():
    flow, x = points(), some_points()
    _, gain = flow.to_base(x)
    for row, found in zip(x, gain.detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: flow.to_base(one.unsqueeze(0))[0].squeeze(0), row
        )
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(
            float(found), abs=1e-5
        )


def test_a_path_begins_at_the_base_and_ends_at_the_samples():
    flow, z = points(), some_points()
    path = flow.path(z, [0.0, 0.5, 1.0])
    assert path.shape == (3, 6, 2)
    torch.testing.assert_close(path[0], z)
    torch.testing.assert_close(path[-1], flow.from_base(z)[0], rtol=0, atol=1e-6)


def test_samples_come_from_the_global_random_state():
    flow = points()
    torch.manual_seed(5)
    first = flow.sample(4)
    torch.manual_seed(5)
    assert torch.equal(flow.sample(4), first)
    assert not torch.equal(flow.sample(4), first)


@pytest.mark.parametrize("trace", ["gaussian", "rademacher"])
def test_the_estimated_trace_is_the_exact_one_in_the_mean(trace):
    torch.manual_seed(0)
    field, z, t = ImageField(1, 3).double(), torch.randn(1, 1, 2, 2).double(), torch.tensor(0.3)
    _, exact = FlowField(field)(t, (z, z.new_zeros(1)))
    exact = exact.detach()
    flow = ContinuousFlow(field, (1, 2, 2), trace=trace)
    many = z.expand(20_000, 1, 2, 2)
    _, estimates = FlowField(field, flow._noise(many))(t, (many, z.new_zeros(20_000)))
    estimates = estimates.detach()
    error = estimates.std() / len(estimates) ** 0.5
    assert estimates.std() > 0
    assert abs(float(estimates.mean() - exact)) < 4 * float(error)


def test_the_trace_is_the_jacobians():
    torch.manual_seed(0)
    field, z, t = ImageField(1, 3).double(), torch.randn(2, 1, 2, 2).double(), torch.tensor(0.3)
    _, change = FlowField(field)(t, (z, z.new_zeros(2)))
    for row, found in zip(z, change.detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: field(t, one.unsqueeze(0)).squeeze(0), row
        )
        assert float(jacobian.reshape(4, 4).trace()) == pytest.approx(-float(found))


def test_a_solve_has_one_noise_and_the_next_one_another():
    field, z, t = ImageField(2, 4), some_images().float(), torch.tensor(0.3)
    flow = ContinuousFlow(field, (2, 4, 4), trace="gaussian")
    state = (z, z.new_zeros(3))
    one, another = FlowField(field, flow._noise(z)), FlowField(field, flow._noise(z))
    assert torch.equal(one(t, state)[1], one(t, state)[1])
    assert not torch.equal(one(t, state)[1], another(t, state)[1])


def test_rademacher_noise_is_of_ones_and_minus_ones():
    flow = images("rademacher")
    noise = flow._noise(some_images())
    assert set(noise.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("backend", ["torch", pytest.param("julia", marks=pytest.mark.julia)])
def test_a_backward_solve_has_its_own_forward_solves_noise(backend, request):
    """Two solves are alive at once; their backward solves come in either order."""
    if backend == "julia":
        request.getfixturevalue("real_julia")
    x = some_images()
    flow = images("gaussian", backend=backend)
    alone = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        alone.append(torch.autograd.grad(flow(x).sum(), list(flow.parameters())))
    assert not torch.allclose(alone[0][0], alone[1][0])
    for order in ((0, 1), (1, 0)):
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(flow(x).sum())
        for which in order:
            found = torch.autograd.grad(results[which], list(flow.parameters()))
            for ours, expected in zip(found, alone[which], strict=True):
                torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_backpropagation():
    flow, x = points(), some_points()
    _, _, *found = gradients(flow, x)
    z, change = pysemi.odeint(
        FlowField(flow.field), (x, x.new_zeros(6)), x.new_tensor([1.0, 0.0]), **TIGHT
    )
    expected = torch.autograd.grad(
        (normal_log_prob(z[-1]) - change[-1]).sum(), list(flow.parameters())
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_log_density_can_be_left_out_of_the_norms():
    solver = {
        "options": {"norm": StateNorm([True, False])},
        "adjoint_options": {"norm": "seminorm"},
    }
    x = some_points()
    with pysemi.record() as recording:
        found = gradients(points(**solver), x)
    assert recording.forward[0].norm == "StateNorm"
    assert recording.backward[0].norm == "seminorm"
    for ours, expected in zip(found, gradients(points(), x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_trace_is_refused():
    with pytest.raises(ArgumentError, match="trace"):
        ContinuousFlow(PointField(2, 4), (2,), trace="approximate")


@pytest.mark.parametrize(
    "field", [lambda: PointField(2, 4, depth=0), lambda: ImageField(1, 4, convolutions=1)]
)
def test_fields_without_a_hidden_layer_are_refused(field):
    with pytest.raises(ArgumentError):
        field()


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.parametrize("kind", ["points", "gaussian", "rademacher"])
def test_julia_and_torch_agree_in_log_density_and_gradients(kind):
    def found(backend: str) -> tuple[torch.Tensor, ...]:
        if kind == "points":
            return gradients(points(backend=backend), some_points())
        return gradients(images(kind, backend=backend), some_images())

    with pysemi.record() as recording:
        ours = found("julia")
    assert recording.forward[0].bridge == recording.backward[0].bridge == "compiled"
    for one, other in zip(ours, found("torch"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
def test_a_field_is_compiled_once_for_all_batches_and_both_directions():
    # A width that no other test has compiled.
    field, solver = ImageField(2, 5), {"backend": "julia"}
    flow = ContinuousFlow(field, (2, 4, 4), trace="gaussian", solver=solver)
    with pysemi.record() as trained:
        for _ in range(3):
            flow(torch.randn(3, 2, 4, 4)).sum().backward()
    with pysemi.record() as used, torch.no_grad():
        flow(torch.randn(3, 2, 4, 4))
        flow.sample(3)
    for recording in (trained, used):  # a solve without gradients needs other programs
        first, *others = [solve.compile_seconds for solve in recording.forward]
        assert first > 0
        assert set(others) == {0.0}
        assert {solve.bridge for solve in recording.forward} == {"compiled"}
