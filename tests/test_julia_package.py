"""The Julia package's own tests, by the command that CONTRIBUTING.md gives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from pysemi.compiler.compiled import compile_field, flat_field
from pysemi.compiler.evaluation import evaluate_joint
from pysemi.compiler.ops.catalogue import BY_CALLBACK, IN_PART
from pysemi.runtime.environment import offline_environment
from pysemi.state import StateLayout
from tests.compiler.models import MODELS, build
from tests.compiler.operator_samples import samples
from tests.compiler.test_opinfo import NAMES

ROOT = Path(__file__).parents[1]

EVERY = 8
"""Of OpInfo's operators, one in so many runs in Julia too: each takes a second of compilation."""


def run_julia_tests(julia, *files, **variables):
    return subprocess.run(
        [
            str(julia.executable),
            f"--project={julia.project}",
            str(ROOT / "julia" / "PySemi" / "test" / "runtests.jl"),
            *files,
        ],
        env={**os.environ, **offline_environment(julia), **variables},
        capture_output=True,
        text=True,
        timeout=2000,
    )


def write_tape(folder, name, model, dtype):
    """A compiled model, and its buffers with PyTorch's results in them; False if there are none."""
    layout = StateLayout.of(model.y)
    y = layout.flatten(model.y)
    t = torch.tensor(0.7, dtype=dtype)
    compilation, inventory = compile_field(model.field, layout, t, y, model.params)
    cotangent = torch.linspace(-1, 1.5, y.numel(), dtype=dtype).view(y.shape)
    field = flat_field(model.field, layout)
    dy, y_bar, *bars = evaluate_joint(field, t, y, cotangent, model.params)
    if not all(bar is None or bar.isfinite().all() for bar in (dy, y_bar, *bars)):
        return False
    params = compilation.params(inventory)
    packed = compilation.tape.of_role("params")[0].size
    by_role = {
        "t": t,
        "y": y,
        "cotangent": cotangent,
        "params": flat(params, params, packed, dtype),
        "dy": dy,
        "y_bar": flat([y_bar], [y], y.numel(), dtype),
        "params_bar": flat(bars, params, packed, dtype),
    }
    tensors = iter(compilation.tensors(inventory))
    parts = []
    for buffer in compilation.tape.buffers:
        if buffer.role in ("work", "record", "operand"):
            continue
        if buffer.role == "tensor":
            value = next(tensors)
        else:
            value = buffer.value if buffer.role == "constant" else by_role[buffer.role]
        assert value.numel() == buffer.size
        assert value.dtype == buffer.dtype
        parts.append(value.detach().reshape(-1).numpy().tobytes())
    # torch's own hardsigmoid backward rounds 1/6 to single precision.
    if "hardsigmoid" in name and dtype == torch.float64:
        return False
    path = folder / f"{name}-{str(dtype).removeprefix('torch.')}"
    path.with_name(path.name + ".tape").write_text(str(compilation.tape))
    path.with_name(path.name + ".data").write_bytes(b"".join(parts))
    return True


def write_operators(folder, every):
    """Tapes of operators on OpInfo's samples, each ``every``-th; how many."""
    count = 0
    for name in NAMES[::every]:
        if name in BY_CALLBACK or name in IN_PART:
            continue
        for model in samples(name, torch.float64, 1):
            count += write_tape(folder, f"opinfo-{name}", model, torch.float64)
    return count


def flat(tensors, like, size, dtype):
    """One after the other, zeros where there is none, and up to ``size``."""
    values = [
        torch.zeros_like(x) if tensor is None else tensor
        for tensor, x in zip(tensors, like, strict=True)
    ]
    joined = torch.cat([value.detach().reshape(-1) for value in values]) if values else None
    filled = torch.zeros(size, dtype=dtype)
    if joined is not None:
        filled[: len(joined)] = joined
    return filled


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.timeout(2100)
def test_the_julia_package_passes_its_tests(real_julia):
    done = run_julia_tests(real_julia)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "PySemi" in done.stdout


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_loops_and_broadcasts_compute_what_torch_does(real_julia, tmp_path):
    count = write_operators(tmp_path, EVERY)
    for name in MODELS:
        for dtype in (torch.float64, torch.float32):
            count += write_tape(tmp_path, name, build(name, dtype), dtype)
    done = run_julia_tests(real_julia, "compiled", PYSEMI_TAPES=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"compared with PyTorch: {count} tapes" in done.stdout
