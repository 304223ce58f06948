"""Importing pysemi starts nothing and looks for nothing."""

from __future__ import annotations

import subprocess
import sys


def modules_after(code: str) -> set[str]:
    script = f"{code}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_import_pysemi_imports_no_julia_and_nothing_slow():
    loaded = modules_after("import pysemi")
    for name in ("juliacall", "diffeqpy", "juliapkg", "torchdiffeq", "scipy", "typer", "rich"):
        assert name not in loaded


def test_a_solve_on_torch_imports_no_julia():
    loaded = modules_after(
        "import torch, pysemi; "
        "pysemi.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))"
    )
    assert "torchdiffeq" in loaded
    assert not {"juliacall", "diffeqpy"} & loaded


def test_the_public_names_are_those_of_the_design():
    import pysemi

    assert set(pysemi.__all__) == {
        "Recording",
        "SolveStats",
        "StateNorm",
        "errors",
        "odeint",
        "odeint_adjoint",
        "odeint_event",
        "record",
    }
    assert all(hasattr(pysemi, name) for name in pysemi.__all__)
