"""PyTorch's own samples of its operators (OpInfo), each compiled and held against autograd."""

from __future__ import annotations

import warnings

import pytest
import torch

from pysemi.compiler.compiled import forget_compilations
from pysemi.compiler.evaluation import evaluate_joint
from pysemi.compiler.ops.catalogue import BY_CALLBACK, IN_PART
from pysemi.compiler.untranslatable import Untranslatable
from tests.compiler.operator_samples import OPERATORS, samples
from tests.compiler.tape_machine import TapeMachine
from tests.compiler.test_translation import compiled, run, run_in_parts

SAMPLES = {torch.float64: 4, torch.float32: 2}
"""Of each operator, spread over what OpInfo has."""

NOT_COMPARED = {
    "as_strided.partial_views": "its samples read the memory around their argument",
    "as_strided_scatter": "its gradient in torch reads the memory around its argument",
    "native_group_norm": "torch reads weights with gaps in memory as if there were none",
    "nn.functional.ctc_loss": "OpInfo has no sample in these dtypes",
    "to_sparse": "its result is no dense tensor",
    "sparse.mm.reduce": "its argument is no dense tensor",
    "sparse.sampled_addmm": "its argument is no dense tensor",
}
"""Operators that are left out here, with the reason."""

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-4}

ROUNDED = {
    ("nn.functional.hardsigmoid", torch.float64): 2e-4,  # torch's gradient is in single precision
    ("logcumsumexp", torch.float32): 2e-3,  # its samples hold 1e4, which float32 rounds to 1e-3
}
"""Tolerances of operators where torch's own results have fewer digits."""

NAMES = [name for name in OPERATORS if name not in NOT_COMPARED]


def zeros_if_none(values, like):
    return [torch.zeros_like(y) if x is None else x for x, y in zip(values, like, strict=True)]


def difference(got, expected, tolerance):
    """What is wrong with a result, in words."""
    finite = torch.isfinite(expected)
    if not torch.equal(torch.isfinite(got), finite):
        return "other elements are finite"
    if not torch.equal(torch.nan_to_num(got[~finite]), torch.nan_to_num(expected[~finite])):
        return "other infinities or NaN"
    if finite.any():
        scale = max(1.0, float(expected[finite].abs().max()))
        error = float((got - expected)[finite].abs().max()) / scale
        if error > tolerance:
            return f"off by {error:.1e} of the largest"
    return None


def outcome(model, dtype, tolerance=None):
    """None if all programs compute what torch does; else what is wrong, or why it is refused."""
    forget_compilations()
    try:
        compilation, inventory, field, y = compiled(model)
    except Untranslatable as reason:
        return f"refused: {reason.what}"
    y = 0.97 * y  # not where it was traced, and still in the operator's domain
    t = torch.tensor(0.4, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(y.shape, generator=generator, dtype=dtype)
    dy, *products = evaluate_joint(field, t, y, cotangent, model.params)
    y_bar, *bars = zeros_if_none(products, (y, *model.params))
    packed = torch.cat([torch.zeros(0, dtype=dtype), *[bar.reshape(-1) for bar in bars]])
    machine = TapeMachine(str(compilation.tape))
    tolerance = tolerance or TOLERANCES[dtype]
    for program in ("field", "pullback", "joint", "parts"):
        if program == "parts":
            machine.roles["params_bar"][0].zero_()
            points = [(t, y, cotangent)]
            ((value, bar),) = run_in_parts(machine, compilation, inventory, points)
            got = (value, bar, machine.roles["params_bar"][0])
        else:
            got = run(machine, compilation, inventory, program, t, y, cotangent)
        pairs = {"f": (got[0], dy)}
        if program != "field":
            pairs["y_bar"] = (got[1], y_bar)
        if program in ("joint", "parts"):
            pairs["params_bar"] = (got[2][: len(packed)], packed)
        for what, (found, expected) in pairs.items():
            wrong = difference(found, expected.reshape(-1), tolerance)
            if wrong:
                return f"wrong: {what} of {program}: {wrong}"
    return None


def outcomes(name, dtype, most):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in samples(name, dtype, most):
            yield outcome(model, dtype, ROUNDED.get((name, dtype)))


def check(name, dtype, most):
    found = list(outcomes(name, dtype, most))
    wrong = {index: text for index, text in enumerate(found) if text and "wrong" in text[:5]}
    refused = {index: text for index, text in enumerate(found) if text and "refused" in text[:7]}
    assert not wrong, f"{name}, by index of the sample (seed 0): {wrong}"
    if name in BY_CALLBACK:
        assert len(refused) == len(found), f"{name} compiles now: take it out of BY_CALLBACK"
    elif name not in IN_PART:
        assert not refused, f"{name}, by index of the sample (seed 0): {refused}"


@pytest.mark.parametrize("name", NAMES[::7])
def test_operator_and_its_gradients_equal_torch_on_some_samples(name):
    check(name, torch.float64, 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_operator_and_its_gradients_equal_torch(name, dtype):
    check(name, dtype, SAMPLES[dtype])


@pytest.mark.slow
def test_what_is_listed_as_compiled_in_part_is():
    for name in IN_PART:
        seen = set()
        for found in outcomes(name, torch.float64, 200):
            seen.add(found is None)
            if len(seen) == 2:
                break
        assert False in seen, f"{name} compiles entirely now: take it out of IN_PART"
        assert True in seen, f"{name} does not compile at all: it belongs into BY_CALLBACK"


def test_lists_name_operators_of_opinfo():
    assert set(BY_CALLBACK) | set(IN_PART) | set(NOT_COMPARED) <= set(OPERATORS)
    assert not set(BY_CALLBACK) & set(IN_PART)
