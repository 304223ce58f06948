"""Flows of images have the paper's numbers of parameters, and lose nothing on the way."""

from __future__ import annotations

import math

import pytest
import torch

import pysemi
from pysemi.errors import ArgumentError
from pysemi.models.image_flow import ImageFlow, dequantise, from_logits, quantise, to_logits

SMALL = {"hidden": 4, "flows": 1, "trace": "exact", "solver": {"rtol": 1e-6, "atol": 1e-6}}


def small(**kwargs) -> ImageFlow:
    torch.manual_seed(0)
    return ImageFlow((1, 4, 4), 17, **{**SMALL, **kwargs})


def some_images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(17, (3, 1, 4, 4), generator=generator).to(torch.uint8)


@pytest.mark.parametrize(
    ("shape", "hidden", "parameters"),
    [
        ((1, 28, 28), 32, 281_928),
        ((1, 28, 28), 64, 1_005_384),
        ((1, 28, 28), 128, 3_779_400),
        ((3, 32, 32), 64, 1_200_600),
    ],
)
def test_the_papers_models_have_the_papers_numbers_of_parameters(shape, hidden, parameters):
    """Table 2."""
    flow = ImageFlow(shape, 256, hidden=hidden)
    assert sum(p.numel() for p in flow.parameters()) == parameters


def test_each_of_the_papers_flows_is_a_solve_of_its_own():
    flow = ImageFlow((1, 4, 4), 17, hidden=2, solver={"rtol": 1e-2, "atol": 1e-2})
    with pysemi.record() as recording:
        flow(some_images()).mean().backward()
    assert len(recording.forward) == len(recording.backward) == 12


def test_an_image_comes_back_from_the_base():
    flow = small()
    x = dequantise(some_images(), 17)
    with torch.no_grad():
        z, _ = flow.to_base(x)
        back = flow.from_base(z)
    assert z.shape == (3, 16, 1, 1)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    assert torch.equal(quantise(back, 17), some_images().long())


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantised_images_are_the_same_when_quantised(levels):
    images = torch.arange(levels).repeat(100).view(-1, 1, 1, 1)
    x = dequantise(images, levels)
    assert torch.equal(quantise(x, levels), images)
    assert 0 <= x.min() <= x.max() <= 1


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_logits_are_finite_can_be_undone_and_know_their_determinant(alpha):
    x = torch.linspace(0, 1, 11, dtype=torch.float64).view(-1, 1, 1, 1).requires_grad_()
    y, gain = to_logits(x, alpha)
    assert y.isfinite().all()
    torch.testing.assert_close(from_logits(y, alpha), x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gain, slope.flatten().log())


def test_the_density_of_dequantised_images_integrates_to_one():
    """Of two pixels, with the margin that alpha leaves beyond [0, 1]."""
    torch.manual_seed(0)
    solver = {"rtol": 1e-5, "atol": 1e-5}
    flow = ImageFlow(
        (1, 1, 2), 2, hidden=3, flows=1, resolutions=1, alpha=0.05, trace="exact", solver=solver
    )
    margin = 0.05 / 0.9
    width = (1 + 2 * margin) / 200
    middle = width * (torch.arange(200) + 0.5) - margin
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(middle, middle).view(-1, 1, 1, 2)).exp()
    assert float(density.sum()) * width**2 == pytest.approx(1, abs=1e-3)


def test_noise_that_is_spread_evenly_has_the_bits_of_its_levels():
    """A density of 1 on [0, 1] costs log2(levels) bits for each value."""
    flow = small()
    flow.log_prob = lambda x: torch.zeros(len(x))  # type: ignore[method-assign]
    torch.testing.assert_close(
        flow.bits_per_dim(some_images()), torch.full((3,), math.log2(17)), rtol=1e-6, atol=0
    )


def test_samples_are_images():
    with torch.no_grad():
        samples = small().sample(2)
    assert samples.shape == (2, 1, 4, 4)
    assert 0 <= samples.min() <= samples.max() <= 1


def test_the_first_resolution_can_be_left_out():
    flow = small(squeezes_first=1, resolutions=2)
    assert [one.shape for one in flow.flows] == [(4, 2, 2), (16, 1, 1)]
    with torch.no_grad():
        assert flow(some_images()).shape == (3,)


@pytest.mark.parametrize("kwargs", [{"resolutions": 4}, {"squeezes_first": 1}, {"alpha": 0.5}])
def test_settings_that_make_no_model_are_refused(kwargs):
    with pytest.raises(ArgumentError):
        small(**kwargs)


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
def test_flows_of_one_resolution_are_compiled_once():
    flow = small(flows=2, trace="gaussian", solver={"rtol": 1e-3, "atol": 1e-3, "backend": "julia"})
    with pysemi.record() as recording:
        flow(some_images()).mean().backward()
        flow(some_images()).mean().backward()
    compiled = [solve.compile_seconds > 0 for solve in recording.forward]
    assert compiled == [True, False] * 3 + [False] * 6
    assert {solve.bridge for solve in recording.forward + recording.backward} == {"compiled"}
