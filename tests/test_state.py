"""Flattening loses nothing, moves nothing, and hands out views."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pysemi.errors import ArgumentError
from pysemi.state import StateLayout

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple).filter(lambda s: 0 not in s)
tuples_of_shapes = st.lists(shapes, min_size=1, max_size=4)


def state(shapes: list[tuple[int, ...]]) -> tuple[torch.Tensor, ...]:
    start = 0
    components = []
    for shape in shapes:
        size = torch.Size(shape).numel()
        components.append(torch.arange(start, start + size, dtype=torch.float64).reshape(shape))
        start += size
    return tuple(components)


@given(tuples_of_shapes)
def test_unflatten_undoes_flatten(shapes):
    y = state(shapes)
    layout = StateLayout.of(y)
    flat = layout.flatten(y)
    assert flat.shape == (sum(layout.sizes),)
    for before, after in zip(y, layout.unflatten(flat), strict=True):
        assert torch.equal(before, after)


@given(tuples_of_shapes)
def test_flat_order_is_the_order_of_the_components(shapes):
    y = state(shapes)
    flat = StateLayout.of(y).flatten(y)
    assert torch.equal(flat, torch.arange(len(flat), dtype=torch.float64))


@given(tuples_of_shapes, st.integers(1, 3))
def test_leading_dimensions_are_kept(shapes, times):
    layout = StateLayout.of(state(shapes))
    trajectory = torch.rand(times, sum(layout.sizes))
    for component, shape in zip(layout.components(trajectory), layout.shapes, strict=True):
        assert component.shape == (times, *shape)


def test_components_are_views_of_the_flat_state():
    layout = StateLayout.of((torch.zeros(2, 3), torch.zeros(())))
    flat = torch.zeros(7)
    layout.components(flat)[1].fill_(5.0)
    assert flat[6] == 5.0


def test_a_noncontiguous_component_is_flattened_in_its_own_order():
    y = (torch.arange(6.0).reshape(2, 3).T,)
    assert StateLayout.of(y).flatten(y).tolist() == [0, 3, 1, 4, 2, 5]


def test_a_tensor_state_is_left_alone():
    y = torch.zeros(2, 3)
    layout = StateLayout.of(y)
    assert layout.flatten(y) is y
    assert layout.unflatten(y) is y


@given(tuples_of_shapes, st.data())
def test_a_tolerance_per_component_is_spread_over_its_channels(shapes, data):
    layout = StateLayout.of(state(shapes))
    tolerances = data.draw(st.lists(st.floats(1e-9, 1), min_size=len(shapes), max_size=len(shapes)))
    flat = layout.flatten_tolerance("rtol", tolerances)
    for tolerance, part in zip(tolerances, layout.components(flat), strict=True):
        # Numbers become float32 as in torchdiffeq, which then solves with the same tolerance.
        assert (part == torch.tensor(tolerance)).all()


def test_a_tolerance_per_channel_of_a_component_is_kept():
    layout = StateLayout.of((torch.zeros(2, 2), torch.zeros(1)))
    per_channel = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert layout.flatten_tolerance("atol", (per_channel, 5.0)).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        ((1e-3,), "has 1 entries, but the state has 2"),
        ((1e-3, torch.zeros(3)), "does not fit"),
        (("a", 1e-3), "no number"),
    ],
)
def test_a_tolerance_that_does_not_fit_is_refused(tolerance, message):
    layout = StateLayout.of((torch.zeros(2), torch.zeros(2)))
    with pytest.raises(ArgumentError, match=message):
        layout.flatten_tolerance("rtol", tolerance)
