"""The Julia package's own tests, by the command that CONTRIBUTING.md gives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from pysemi.compiler.compiled import compile_field, flat_field
from pysemi.compiler.trace import evaluate_joint
from pysemi.runtime.environment import offline_environment
from pysemi.state import StateLayout
from tests.compiler.models import MODELS, build

ROOT = Path(__file__).parents[1]


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
        timeout=1400,
    )


def write_tape(folder, name, dtype):
    """A compiled model, and its buffers with PyTorch's results in them."""
    model = build(name, dtype)
    layout = StateLayout.of(model.y)
    y = layout.flatten(model.y)
    t = torch.tensor(0.7, dtype=dtype)
    compilation, inventory = compile_field(model.field, layout, t, y, model.params)
    cotangent = torch.linspace(-1, 1.5, y.numel(), dtype=dtype).view(y.shape)
    field = flat_field(model.field, layout)
    dy, y_bar, *bars = evaluate_joint(field, t, y, cotangent, model.params)
    params = compilation.params(inventory)
    packed = compilation.tape.of_role("params")[0].size
    by_role = {
        "t": t,
        "y": y,
        "cotangent": cotangent,
        "params": flat(params, params, packed),
        "dy": dy,
        "y_bar": flat([y_bar], [y], y.numel()),
        "params_bar": flat(bars, params, packed),
    }
    tensors = iter(compilation.tensors(inventory))
    parts = []
    for buffer in compilation.tape.buffers:
        if buffer.role == "work":
            continue
        if buffer.role == "tensor":
            value = next(tensors)
        else:
            value = buffer.value if buffer.role == "constant" else by_role[buffer.role]
        assert value.numel() == buffer.size
        assert value.dtype == buffer.dtype
        parts.append(value.detach().reshape(-1).numpy().tobytes())
    # torch's own hardsigmoid backward rounds 1/6 to single precision.
    if name != "perceptron-hardsigmoid" or dtype == torch.float32:
        path = folder / f"{name}-{str(dtype).removeprefix('torch.')}"
        path.with_suffix(".tape").write_text(str(compilation.tape))
        path.with_suffix(".data").write_bytes(b"".join(parts))


def flat(tensors, like, size):
    """One after the other, zeros where there is none, and up to ``size``."""
    values = [
        torch.zeros_like(x) if tensor is None else tensor
        for tensor, x in zip(tensors, like, strict=True)
    ]
    joined = torch.cat([value.detach().reshape(-1) for value in values]) if values else None
    filled = torch.zeros(size, dtype=like[0].dtype if len(like) else torch.get_default_dtype())
    if joined is not None:
        filled[: len(joined)] = joined
    return filled


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_julia_package_passes_its_tests(real_julia):
    done = run_julia_tests(real_julia)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "PySemi" in done.stdout


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_loops_and_broadcasts_compute_what_torch_does(real_julia, tmp_path):
    for name in MODELS:
        for dtype in (torch.float64, torch.float32):
            write_tape(tmp_path, name, dtype)
    done = run_julia_tests(real_julia, "compiled", PYSEMI_TAPES=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"compared with PyTorch: {2 * len(MODELS) - 1} tapes" in done.stdout
