"""A tape computes what the PyTorch function computes: f and both its products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pysemi
from pysemi.compiler.compiled import compile_field, flat_field
from pysemi.compiler.evaluation import evaluate_joint
from pysemi.state import StateLayout
from tests.compiler.models import MODELS, Model, build
from tests.compiler.tape_machine import TapeMachine


def run(machine, compilation, inventory, program, t, y, cotangent):
    """Results of one program of the tape at a point."""
    put(machine, compilation, inventory, t, y, cotangent)
    machine.run(program)
    return results(machine)


def results(machine):
    return tuple(machine.roles[role][0].clone() for role in ("dy", "y_bar", "params_bar"))


def run_in_parts(machine, compilation, inventory, points):
    """f, then y_bar, at each point (t, y, cotangent); dL/dθ of all is added to what is there.

    All evaluations of f come first; what a pullback reads is the record of its own, t and λ.
    """
    records, values = [], []
    for point in points:
        values.append([run(machine, compilation, inventory, "record", *point)[0]])
        records.append(machine.record.clone())
    operands = []
    for (t, y, cotangent), record, value in zip(points, records, values, strict=True):
        put(machine, compilation, inventory, t, torch.full_like(y, torch.nan), cotangent)
        machine.work.fill_(0x7F)
        machine.roles["dy"][0].fill_(torch.nan)
        machine.record.copy_(record)
        machine.run("reverse")
        value.append(results(machine)[1])
        operands.append(machine.operands())
    machine.gather(operands)
    return values


def put(machine, compilation, inventory, t, y, cotangent):
    """The inputs of a tape at a point."""
    roles = machine.roles
    roles["t"][0].fill_(t)
    roles["y"][0].copy_(y.reshape(-1))
    roles["cotangent"][0].copy_(cotangent.reshape(-1))
    params = compilation.params(inventory)
    if params:
        flat = torch.cat([param.detach().reshape(-1) for param in params])
        roles["params"][0][: len(flat)].copy_(flat)
    for memory, tensor in zip(roles.get("tensor", []), compilation.tensors(inventory), strict=True):
        memory.copy_(tensor.detach().reshape(-1))
    constants = compilation.tape.of_role("constant")
    for memory, buffer in zip(roles.get("constant", []), constants, strict=True):
        memory.copy_(buffer.value.reshape(-1))


def compiled(model, params="its own"):
    layout = StateLayout.of(model.y)
    y = layout.flatten(model.y)
    params = model.params if params == "its own" else params
    t = torch.tensor(0.3, dtype=y.dtype)
    compilation, inventory = compile_field(model.field, layout, t, y, params)
    return compilation, inventory, flat_field(model.field, layout), y


def close(a, b, dtype):
    scale = max(float(b.abs().max()), 1.0)
    return float((a - b).abs().max()) <= (1e-13 if dtype == torch.float64 else 2e-5) * scale


def check(model, dtype, rounded=None):
    """All programs compute what torch does at points that they were not traced at."""
    compilation, inventory, field, y0 = compiled(model)
    machine = TapeMachine(str(compilation.tape))
    kind = rounded or dtype
    generator = torch.Generator().manual_seed(1)
    points, expected, total = [], [], 0
    for time in (0.05, 0.91):
        t = torch.tensor(time, dtype=dtype)
        y = torch.randn(y0.shape, generator=generator, dtype=dtype)
        cotangent = torch.randn(y0.shape, generator=generator, dtype=dtype)
        dy, y_bar, *bars = evaluate_joint(field, t, y, cotangent, model.params)
        y_bar, *bars = [
            torch.zeros_like(x) if bar is None else bar
            for x, bar in zip((y, *model.params), (y_bar, *bars), strict=True)
        ]
        packed = torch.cat([torch.zeros(0, dtype=dtype), *[bar.reshape(-1) for bar in bars]])
        for program in ("field", "pullback", "joint"):
            got = run(machine, compilation, inventory, program, t, y, cotangent)
            assert close(got[0], dy.reshape(-1), kind), program
            if program != "field":
                assert close(got[1], y_bar.reshape(-1), kind), program
        assert not bars or close(got[2], packed, kind)
        points.append((t, y, cotangent))
        expected.append((dy.reshape(-1), y_bar.reshape(-1)))
        total = total + packed
        if y_bar.any():  # what is always zero is never written
            machine.roles["y_bar"][0].fill_(torch.nan)
        machine.roles["dy"][0].fill_(torch.nan)
    machine.roles["params_bar"][0].fill_(0.5)
    in_parts = run_in_parts(machine, compilation, inventory, points)
    for found, known in zip(in_parts, expected, strict=True):
        assert all(close(x, y, kind) for x, y in zip(found, known, strict=True))
    if bars:
        assert close(machine.roles["params_bar"][0], 0.5 + total, kind)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_tape_equals_torch_at_points_it_was_not_traced_at(name, dtype):
    # torch's own hardsigmoid backward rounds 1/6 to single precision.
    check(build(name, dtype), dtype, torch.float32 if name == "perceptron-hardsigmoid" else None)


def test_field_alone_is_compiled_without_parameters():
    model = build("hamiltonian")
    compilation, inventory, field, y = compiled(model, params=None)
    assert set(compilation.tape.programs) == {"field"}
    assert compilation.tape.of_role("cotangent")[0].size == 1  # nothing reads it
    machine = TapeMachine(str(compilation.tape))
    t = torch.tensor(0.5, dtype=y.dtype)
    dy, _, _ = run(machine, compilation, inventory, "field", t, y, torch.zeros(1))
    assert close(dy, field(t, y).detach().reshape(-1), y.dtype)


def test_symplectic_ode_net_shrinks_to_a_tenth_of_its_graph():
    compilation, *_ = compiled(build("symplectic-1"))
    # Torch's own graph of the joint function has about 900 operators.
    assert len(compilation.tape.programs["joint"]) < 200
    assert len(compilation.tape.programs["field"]) < 80


def test_a_bias_and_its_activation_are_one_kernel():
    compilation, *_ = compiled(build("perceptron-tanh"))
    texts = [str(instruction) for instruction in compilation.tape.programs["field"]]
    assert sum("matmul" in text for text in texts) == 3
    assert sum("tanh" in text for text in texts) == 2
    assert len(texts) <= 7  # sin(t) may stand apart


def test_a_pullback_computes_nothing_of_f_again():
    compilation, *_ = compiled(build("perceptron-tanh"))
    programs = compilation.tape.programs
    counts = {name: sum(x.kernel == "matmul" for x in programs[name]) for name in programs}
    assert counts == {"field": 3, "pullback": 6, "joint": 9, "record": 3, "reverse": 3, "gather": 3}
    assert not any("tanh" in str(x) for x in programs["reverse"])
    written = {name: {x.out.buffer.role for x in programs[name]} for name in programs}
    assert "dy" not in written["reverse"]
    assert written["gather"] == {"params_bar"}
    assert all("add" in x.words for x in programs["gather"])


class Wide(nn.Module):
    """A layer of a batch of one, a function of θ alone, windows, and what is not differentiable."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.float64) / 6)
        self.bias = nn.Parameter(torch.randn(6, dtype=torch.float64))

    def forward(self, t, y):
        rotation = torch.linalg.matrix_exp(self.weight - self.weight.T)
        windows = y.unfold(0, 3, 1) * torch.ones(3, dtype=y.dtype)
        slow = windows.sum(1).repeat(2)[:6]
        return torch.relu(rotation @ y + self.bias) * slow * torch.sin(t)


def test_what_is_kept_is_what_a_kernel_wrote_that_depends_on_the_point():
    model = Wide()
    y = torch.randn(6, dtype=torch.float64)
    params = tuple(model.parameters())
    compilation, _ = compile_field(model, StateLayout.of(y), torch.tensor(0.0), y, params)
    tape = compilation.tape
    # Not the rotation, of 36 numbers, which each evaluation has for itself.
    assert max(buffer.size for buffer in tape.of_role("record")) == 6
    assert 1 <= len(tape.of_role("record")) <= 8
    assert any(x.kernel == "exponential" for x in tape.programs["reverse"])


@pytest.mark.parametrize("rows", [128, 129])
def test_products_over_many_rows_are_not_put_off(rows):
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    y = torch.randn(rows, 3)
    compilation, _ = compile_field(
        lambda t, y: net(y), StateLayout.of(y), torch.tensor(0.0), y, tuple(net.parameters())
    )
    programs = compilation.tape.programs
    adding = {name: sum("add" in x.words for x in programs[name]) for name in programs}
    assert adding["gather"] == (4 if rows == 128 else 0)
    assert adding["reverse"] == (0 if rows == 128 else 4)


def test_a_product_that_is_read_elsewhere_is_not_put_off():
    class Read(nn.Module):
        """Two parameters that have one gradient, which is one node."""

        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
            self.b = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))

        def forward(self, t, y):
            return (y @ (self.a + self.b)).tanh()

    model = Read()
    y0 = torch.randn(4, 3, dtype=torch.float64)
    params = tuple(model.parameters())
    compilation, inventory = compile_field(
        model, StateLayout.of(y0), torch.tensor(0.0, dtype=torch.float64), y0, params
    )
    assert not compilation.tape.programs["gather"]
    machine = TapeMachine(str(compilation.tape))
    t, cotangent = torch.tensor(0.3, dtype=torch.float64), torch.randn_like(y0)
    _, y_bar, *bars = evaluate_joint(model, t, y0, cotangent, params)
    run(machine, compilation, inventory, "record", t, y0, cotangent)
    for times in (1, 2, 3):
        got = run(machine, compilation, inventory, "reverse", t, y0, cotangent)
        assert close(got[1], y_bar.reshape(-1), y0.dtype)
        expected = times * torch.cat([bar.reshape(-1) for bar in bars])
        assert close(got[2], expected, y0.dtype)


def test_work_space_is_used_again():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(20))

        def forward(self, t, y):
            for layer in self.layers:
                y = torch.tanh(layer(y))
            return y

    field = Deep()
    y = torch.randn(8, 16)
    compilation, _ = compile_field(field, StateLayout.of(y), torch.tensor(0.0), y, None)
    work = [b for b in compilation.tape.buffers if b.role == "work"]
    # Each layer needs its input and its result, and nothing else stays.
    assert max(b.place + b.size * 4 for b in work) <= 2 * 8 * 16 * 4 + 64


def test_arrays_without_elements_take_no_other_array_s_place():
    # The first product lies in work space while the empty one does, which goes earlier.
    empty = torch.zeros(4, 0, dtype=torch.float64)
    weight = torch.randn(4, 4, dtype=torch.float64)

    def field(t, y):
        return (y @ weight).sum(0) * (y @ empty @ empty.T)

    y = torch.randn(5, 4, dtype=torch.float64)
    check(Model(field, y, ()), torch.float64)


@pytest.mark.parametrize("size", [0.3, torch.tensor(0.3, dtype=torch.float64)])
def test_a_result_keeps_its_values_where_torch_gives_it_other_strides(size):
    other = torch.randn(3, 4, dtype=torch.float64).T

    def field(t, y):
        return torch.lerp(y.T, other.T, size).T.exp()

    check(Model(field, torch.randn(4, 3, dtype=torch.float64), ()), torch.float64)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_image_made_smaller_without_aliasing_equals_torch_s(mode):
    def field(t, y):
        small = nn.functional.interpolate(y, size=(3, 2), mode=mode, antialias=True)
        return nn.functional.interpolate(small, size=(7, 6), mode=mode, antialias=True)

    check(Model(field, torch.randn(2, 1, 7, 6, dtype=torch.float64), ()), torch.float64)


def test_a_running_sum_of_exponentials_takes_kernels_by_the_bits_of_its_length():
    counts = []
    for length in (8, 1024):
        tape = pysemi.compile(lambda t, y: y.logcumsumexp(0), torch.zeros(length)).tape
        counts.append(len(tape.programs["field"]))
    assert counts[1] * 3 == counts[0] * 10


def test_the_gradient_of_a_matrix_exponential_is_one_of_twice_the_size():
    def field(t, y):
        return torch.linalg.matrix_exp(y)

    tape = pysemi.compile(field, torch.zeros(4, 4)).tape
    texts = [str(instruction) for instruction in tape.programs["pullback"]]
    assert [text.split(" ")[0].partition("[")[2] for text in texts if "exponential" in text] == [
        "4,4]",
        "8,8]",
    ]


def test_results_that_are_views_or_shared_are_all_written():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
            self.b = nn.Parameter(torch.randn(3, dtype=torch.float64))
            self.unused = nn.Parameter(torch.randn(2, dtype=torch.float64))

        def forward(self, t, y):
            return (y @ self.a).T.contiguous().T + self.b + self.b

    field = Odd()
    y = torch.randn(4, 3, dtype=torch.float64)
    layout = StateLayout.of(y)
    params = tuple(field.parameters())
    compilation, inventory = compile_field(field, layout, torch.tensor(0.0), y, params)
    machine = TapeMachine(str(compilation.tape))
    machine.roles["params_bar"][0].zero_()
    got = run(machine, compilation, inventory, "joint", torch.tensor(0.0), y, y)
    dy, y_bar, a, b, _ = evaluate_joint(flat_field(field, layout), torch.tensor(0.0), y, y, params)
    assert close(got[0], dy.reshape(-1), y.dtype)
    assert close(got[1], y_bar.reshape(-1), y.dtype)
    assert close(got[2], torch.cat([a.reshape(-1), b, torch.zeros(2)]), y.dtype)


def test_listing_shows_kernels_shapes_modules_and_flops():
    compilation, *_ = compiled(build("perceptron-tanh"))
    listing = compilation.tape.listing
    assert "program joint" in listing
    assert "[4,8] = matmul" in listing
    assert "Linear" in listing
    assert "192 flops" in listing  # 4 x 3 x 8 products, multiplied and added
