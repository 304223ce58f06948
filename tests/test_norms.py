"""Norms against a few lines of numpy, and what each of them looks at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pysemi.errors import ArgumentError
from pysemi.norms import StateNorm, bind_adjoint_norm, bind_state_norm, rms
from pysemi.state import StateLayout

floats = st.floats(-1e3, 1e3, allow_nan=False)
vectors = hnp.arrays(np.float64, st.integers(1, 6), elements=floats)
tuples = st.lists(vectors, min_size=1, max_size=3)


def np_rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def augmented(a_t, y, a_y, params):
    """(layout, augmented state as the backward solve holds it)."""
    states = [tuple(map(torch.as_tensor, part)) for part in (y, a_y)]
    layout = StateLayout.of(states[0])
    flat = [layout.flatten(part) for part in states]
    return layout, (torch.tensor(a_t, dtype=torch.float64), *flat, *map(torch.as_tensor, params))


@st.composite
def augmented_states(draw):
    y = draw(tuples)
    a_y = [draw(hnp.arrays(np.float64, len(component), elements=floats)) for component in y]
    return draw(floats), y, a_y, draw(st.lists(vectors, max_size=3))


def adjoint_norm(spec, layout, state_spec="default"):
    return bind_adjoint_norm(spec, layout, bind_state_norm(state_spec, layout)).function


@given(tuples)
def test_the_default_norm_is_the_largest_rms_of_a_component(y):
    state = tuple(map(torch.as_tensor, y))
    layout = StateLayout.of(state)
    norm = bind_state_norm("default", layout).function
    assert float(norm(layout.flatten(state))) == pytest.approx(max(map(np_rms, y)))


@given(tuples)
def test_rms_takes_all_channels_of_a_tuple_as_one_vector(y):
    state = tuple(map(torch.as_tensor, y))
    layout = StateLayout.of(state)
    norm = bind_state_norm("rms", layout).function
    assert float(norm(layout.flatten(state))) == pytest.approx(np_rms(np.concatenate(y)))


@given(augmented_states())
def test_the_seminorm_is_the_largest_of_a_t_y_and_a_y(parts):
    a_t, y, a_y, params = parts
    layout, state = augmented(a_t, y, a_y, params)
    expected = max(abs(a_t), *map(np_rms, y), *map(np_rms, a_y))
    assert float(adjoint_norm("seminorm", layout)(state)) == pytest.approx(expected)


@given(augmented_states())
def test_the_default_adjoint_norm_looks_at_every_parameter_too(parts):
    a_t, y, a_y, params = parts
    layout, state = augmented(a_t, y, a_y, params)
    expected = max(abs(a_t), *map(np_rms, y), *map(np_rms, a_y), *map(np_rms, params))
    assert float(adjoint_norm("default", layout)(state)) == pytest.approx(expected)


@given(augmented_states())
def test_the_rms_adjoint_norm_weighs_all_channels_alike(parts):
    a_t, y, a_y, params = parts
    layout, state = augmented(a_t, y, a_y, params)
    expected = max(abs(a_t), np_rms(np.concatenate([*y, *a_y, *params])))
    assert float(adjoint_norm("rms", layout)(state)) == pytest.approx(expected)


@given(augmented_states(), st.floats(1, 1e6))
def test_the_seminorm_ignores_a_theta(parts, factor):
    a_t, y, a_y, params = parts
    layout, before = augmented(a_t, y, a_y, params)
    _, after = augmented(a_t, y, a_y, [param * factor + 1 for param in params])
    norm = adjoint_norm("seminorm", layout)
    assert torch.equal(norm(before), norm(after))


@given(augmented_states())
def test_the_seminorm_never_exceeds_the_default_norm(parts):
    layout, state = augmented(*parts)
    assert adjoint_norm("seminorm", layout)(state) <= adjoint_norm("default", layout)(state)


@pytest.mark.parametrize("spec", ["default", "seminorm", "rms"])
@given(parts=augmented_states(), scale=st.floats(0, 100))
def test_norms_scale_with_their_argument(spec, parts, scale):
    a_t, y, a_y, params = parts
    layout, state = augmented(a_t, y, a_y, params)
    norm = adjoint_norm(spec, layout)
    scaled = tuple(scale * part for part in state)
    assert float(norm(scaled)) == pytest.approx(scale * float(norm(state)))


@pytest.mark.parametrize("spec", ["default", "seminorm", "rms"])
@pytest.mark.parametrize("position", [1, 2])
def test_a_nan_in_the_state_or_its_adjoint_is_never_dropped(spec, position):
    layout, state = augmented(1.0, [np.ones(3), np.ones(1)], [np.ones(3), np.ones(1)], [np.ones(2)])
    state = list(state)
    state[position] = state[position].clone()
    state[position][-1] = float("nan")
    assert adjoint_norm(spec, layout)(tuple(state)).isnan()


def test_a_mask_leaves_a_component_out():
    y = (torch.tensor([3.0, 4.0]), torch.tensor([1e6]))
    layout = StateLayout.of(y)
    norm = bind_state_norm(StateNorm([True, False]), layout).function
    assert float(norm(layout.flatten(y))) == pytest.approx(np_rms(np.array([3.0, 4.0])))


def test_a_mask_per_channel_counts_only_what_it_keeps():
    y = torch.tensor([3.0, 1e6, 4.0])
    norm = bind_state_norm(StateNorm(torch.tensor([True, False, True])), StateLayout.of(y)).function
    assert float(norm(y)) == pytest.approx(np_rms(np.array([3.0, 4.0])))


@given(vectors, st.floats(0.125, 8))
def test_weights_multiply_the_channels(y, weight):
    state = torch.as_tensor(y)
    norm = bind_state_norm(StateNorm([weight]), StateLayout.of(state)).function
    assert float(norm(state)) == pytest.approx(weight * np_rms(y))


def test_a_state_norm_backward_is_a_seminorm_of_that_state_norm():
    layout, state = augmented(
        0.5, [np.ones(2), np.full(1, 99.0)], [np.full(2, 2.0), np.full(1, 99.0)], [np.full(3, 77.0)]
    )
    assert float(adjoint_norm(StateNorm([True, False]), layout)(state)) == pytest.approx(2.0)


def test_default_and_seminorm_use_the_forward_norm_for_y_and_a_y():
    layout, state = augmented(
        0.0, [np.ones(2), np.full(1, 99.0)], [np.full(2, 2.0), np.full(1, 99.0)], [np.full(3, 7.0)]
    )
    forward = StateNorm([True, False])
    assert float(adjoint_norm("seminorm", layout, forward)(state)) == pytest.approx(2.0)
    assert float(adjoint_norm("default", layout, forward)(state)) == pytest.approx(7.0)


def test_a_callable_sees_the_state_as_the_user_has_it():
    y = (torch.ones(2, 2), torch.ones(3))
    layout = StateLayout.of(y)
    seen = []
    bind_state_norm(lambda state: seen.append(state) or 0.5, layout).function(layout.flatten(y))
    assert [part.shape for part in seen[0]] == [(2, 2), (3,)]


def test_a_callable_adjoint_norm_sees_every_component_and_parameter():
    y = (torch.ones(2, 2), torch.ones(3))
    layout = StateLayout.of(y)
    flat = layout.flatten(y)
    seen = []
    norm = adjoint_norm(lambda parts: seen.append(parts) or 1.0, layout)
    value = norm((torch.zeros(()), flat, flat, torch.ones(4)))
    assert [part.shape for part in seen[0]] == [(), (2, 2), (3,), (2, 2), (3,), (4,)]
    assert isinstance(value, torch.Tensor)


def test_a_state_norm_follows_the_state_to_another_dtype():
    norm = StateNorm([0.5]).bind(StateLayout.of(torch.ones(2)))
    assert norm(torch.ones(2)).dtype == torch.float32
    assert norm(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_seminorm_forward_is_refused_with_its_right_place():
    with pytest.raises(ArgumentError, match=r"adjoint_options=dict\(norm='seminorm'\)"):
        bind_state_norm("seminorm", StateLayout.of(torch.ones(1)))


@pytest.mark.parametrize("spec", ["l2", 3, None])
def test_an_unknown_norm_is_refused_with_the_names_there_are(spec):
    layout = StateLayout.of(torch.ones(1))
    with pytest.raises(ArgumentError, match="'default', 'seminorm', 'rms'"):
        bind_state_norm(spec, layout)
    with pytest.raises(ArgumentError, match="'default', 'seminorm', 'rms'"):
        bind_adjoint_norm(spec, layout, bind_state_norm("default", layout))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "empty"),
        ([-1.0], "not negative"),
        ([float("nan")], "finite"),
        ([False, 0.0], "all zero"),
    ],
)
def test_weights_that_make_no_norm_are_refused(weights, message):
    with pytest.raises(ArgumentError, match=message):
        StateNorm(weights)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [torch.ones(3)]])
def test_weights_that_do_not_fit_the_state_are_refused(weights):
    with pytest.raises(ArgumentError):
        StateNorm(weights).bind(StateLayout.of(torch.ones(2)))


def test_rms_of_zeros_is_zero():
    assert rms(torch.zeros(4)) == 0
