"""The table of operators as a whole, and what it does not have."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import pysemi
from pysemi.compiler.ops import DECOMPOSITIONS, OPERATORS, catalogue, decomposition, operator
from pysemi.compiler.ops.registry import aten
from pysemi.compiler.places import place_of
from pysemi.compiler.trace import trace_field, trace_joint
from tests.compiler.models import build

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_page_of_operators_is_up_to_date():
    assert PAGE.read_text() == catalogue.page(), "python -m pysemi.compiler.ops > docs/operators.md"


def test_an_operator_is_entered_once_in_either_table():
    for table in (operator, decomposition):
        with pytest.raises(ValueError, match="registered already"):
            table(aten.convolution.default)(lambda *_: None)
    assert not set(OPERATORS) & set(DECOMPOSITIONS)


def test_explanation_of_a_field_that_compiles_has_its_cost():
    model = build("perceptron-tanh", torch.float32)
    explained = pysemi.explain(model.field, model.y, 0.3)
    assert explained.bridge == "compiled"
    assert explained.reason is None
    assert explained.field.kernels == len(explained.field.tape.programs["joint"])
    text = str(explained)
    assert 'Perceptron: bridge "compiled"' in text
    flops = sum(x.flops for x in explained.field.tape.programs["joint"])
    assert f"{flops:,} flops" in text
    assert f"{explained.field.tape.nbytes:,} bytes" in text


def test_bytes_of_a_tape_count_shared_work_space_once():
    tape = pysemi.compile(lambda t, y: y @ y @ y @ y @ y, torch.zeros(8, 8)).tape
    given = sum(b.size * b.dtype.itemsize for b in tape.buffers if b.role != "work")
    work = max(b.place + b.size * b.dtype.itemsize for b in tape.buffers if b.role == "work")
    assert tape.nbytes == given + work


class Unusual(nn.Module):
    def forward(self, t, y):
        first = torch.linalg.svdvals(y)
        return y * first[0] + torch.mode(y, 0).values + torch.special.i0(y)


def test_explanation_names_all_missing_operators_at_once():
    explained = pysemi.explain(Unusual(), torch.randn(3, 3))
    assert explained.bridge == "callback"
    assert explained.field is None
    for name in ("aten._linalg_svd", "aten.mode", "prims.bessel_i0"):
        assert f"{name}.default" in explained.reason
    assert "cannot be compiled: aten." in str(explained)


def test_explanation_names_the_line_and_the_attribute():
    class Looks(nn.Module):
        def forward(self, t, y):
            return y if y.sum() > 0 else -y

    class Counts(nn.Module):
        calls = 0

        def forward(self, t, y):
            self.calls += 1
            return y

    assert "if y.sum() > 0" in pysemi.explain(Looks(), torch.ones(2)).reason
    assert "calls" in pysemi.explain(Counts(), torch.ones(2)).reason


class Noisy(nn.Module):
    def forward(self, t, y):
        return y + torch.randn_like(y)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), Noisy()])
        self.drop = nn.Dropout(0.5)

    def forward(self, t, y):
        return self.drop(y) + self.blocks[1](t, self.blocks[0](y))


def test_explanation_names_the_module_and_the_line_of_an_operator():
    reason = pysemi.explain(Nested(), torch.ones(3, 3)).reason
    assert "draws random numbers, in Nested.drop" in reason
    assert "return self.drop(y) + self.blocks[1]" in reason
    assert "aten.randn_like.default, which draws random numbers, in Nested.blocks.1" in reason
    assert f"{__file__}:" in reason
    assert "return y + torch.randn_like(y))" in reason
    reason = pysemi.explain(lambda t, y: Unusual()(t, y), torch.ones(3, 3)).reason
    assert "aten._linalg_svd.default, in Unusual" in reason
    assert "first = torch.linalg.svdvals(y)" in reason


def test_a_module_that_another_thread_runs_is_no_affair_of_a_trace():
    begun, recorded = threading.Event(), threading.Event()

    class Elsewhere(nn.Module):
        def forward(self, x):
            begun.set()
            assert recorded.wait(20)
            return x

    with ThreadPoolExecutor(1) as pool:

        def field(t, y):
            other = pool.submit(Elsewhere(), torch.ones(1))
            assert begun.wait(20)
            dy = torch.sin(y)
            recorded.set()
            other.result(20)
            return dy

        traced = trace_field(field, torch.zeros(()), torch.ones(2))
    places = {str(node.target): place_of(node) for node in traced.module.graph.nodes}
    assert places["aten.sin.default"].path == ""
    assert "dy = torch.sin(y)" in places["aten.sin.default"].line


def test_what_only_the_gradient_needs_has_no_line_of_the_field():
    y = torch.ones(2)
    traced = trace_joint(lambda t, y: torch.sin(y), torch.zeros(()), y, y, ())
    places = {str(node.target): place_of(node) for node in traced.module.graph.nodes}
    assert "torch.sin(y)" in places["aten.sin.default"].line
    assert places["aten.cos.default"].line == ""  # of the derivative


def operators_of(model):
    layout = pysemi.state.StateLayout.of(model.y)
    y = layout.flatten(model.y)
    traced = trace_joint(model.field, torch.zeros(()).to(y), y, y, model.params)
    return {str(node.target) for node in traced.module.graph.nodes}


@pytest.mark.parametrize("name", ["attention", "conv-2d", "pooled", "averaged", "weight-norm"])
def test_no_trace_of_a_layer_has_torch_s_fused_kernels(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    from pysemi.compiler.evaluation import evaluate_joint

    model = build(name)
    y = model.y
    whole = make_fx(lambda t, y: evaluate_joint(model.field, t, y, y, model.params))(y.sum(), y)
    fused = {str(node.target) for node in whole.graph.nodes} & set(map(str, DECOMPOSITIONS))
    assert fused  # or the entry is not tested by this model
    assert not operators_of(model) & fused
