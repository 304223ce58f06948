"""Every package is given the same problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from side_by_side.problems import PROBLEMS, QUICK, build, observation_counts, select

pytestmark = pytest.mark.timeout(60)

SMALL = tuple(name for name in PROBLEMS if name not in ("e-500k", "e-5M", "f-large"))


def test_the_networks_have_as_many_parameters_as_their_names_say():
    counts = {name: build(name, 2).parameter_count for name in PROBLEMS}
    assert counts["a"] == 2 * 50 + 50 + 50 * 50 + 50 + 50 * 2 + 2
    assert counts["d"] == 4 * 32 + 32 + 32 * 4 + 4
    assert counts["g"] == 2 * (8 * 8 * 9 + 8)
    for name, named in (("e-50k", 5e4), ("e-500k", 5e5), ("e-5M", 5e6)):
        assert counts[name] == pytest.approx(named, rel=0.01)


def test_states_and_controls_are_of_the_sizes_asked_for():
    shapes = {name: build(name, 2).y0.shape for name in PROBLEMS}
    assert shapes["a"] == (20, 2)
    assert shapes["b"] == (1, 10)
    assert shapes["c"] == (256, 64)
    assert shapes["d"] == (64, 4)
    assert shapes["f-small"] == (32, 16)
    assert shapes["f-large"] == (256, 64)
    assert shapes["g"] == (16, 8, 16, 16)
    assert build("f-small", 2).control.shape == (32, 50, 13)
    assert build("f-large", 2).control.shape == (256, 50, 20)
    assert observation_counts("a") == (2, 20)
    assert observation_counts("d") == (2, 100)


@pytest.mark.parametrize("name", SMALL)
def test_a_problem_is_the_same_each_time_and_all_of_it_is_float32(name):
    first, second = build(name, 2), build(name, 2)
    assert first.digest() == second.digest() != build(name, 3).digest()
    arrays = [*first.parameters, first.y0, first.t, first.loss_weights]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    assert first.loss_weights.shape == (2, *first.y0.shape)


def test_a_letter_stands_for_all_sizes_and_an_unknown_name_is_refused():
    assert select(["g", "e"]) == ["e-50k", "e-500k", "e-5M", "g"]
    assert select(["f-small"]) == ["f-small"]
    assert set(QUICK) < set(PROBLEMS)
    with pytest.raises(ValueError, match="there is no problem 'h'"):
        select(["a", "h"])


@pytest.mark.parametrize("name", SMALL)
def test_torch_and_jax_evaluate_the_same_vector_field(name):
    pytest.importorskip("diffrax", reason="diffrax is not installed (pip install pysemi[bench])")
    if name == "f-small":
        pytest.importorskip("torchcde")
    import jax.numpy as jnp
    from side_by_side import fields_jax, fields_torch

    problem = build(name, 2)
    y = problem.y0 * np.float32(0.9)
    t = np.float32(0.37)
    with torch.no_grad():
        by_torch = fields_torch.field(problem, torch.float64)(
            torch.tensor(float(t), dtype=torch.float64), torch.from_numpy(y).double()
        )
    by_jax = fields_jax.field(problem)(
        jnp.asarray(t), jnp.asarray(y), fields_jax.parameters(problem)
    )
    assert by_jax.shape == y.shape
    np.testing.assert_allclose(np.asarray(by_jax), by_torch.numpy(), rtol=1e-4, atol=1e-5)
