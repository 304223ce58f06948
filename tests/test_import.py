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


def test_the_command_line_answers_without_torch():
    loaded = modules_after("from pysemi.cli import main; main(['--version'])")
    assert "typer" in loaded
    assert not {"torch", "juliapkg", "rich.console"} & loaded


def test_every_public_name_is_there_and_is_the_one_of_its_module():
    import pysemi
    from pysemi import api, errors, models, norms, stats

    assert pysemi.odeint is api.odeint
    assert pysemi.odeint_adjoint is api.odeint_adjoint
    assert pysemi.odeint_event is api.odeint_event
    assert pysemi.record is stats.record
    assert pysemi.StateNorm is norms.StateNorm
    assert (pysemi.errors, pysemi.models, pysemi.norms) == (errors, models, norms)
    for name in pysemi.__all__:
        assert getattr(pysemi, name) is not None
        assert name in dir(pysemi)


def test_another_name_is_an_attribute_error():
    import pytest

    import pysemi

    with pytest.raises(AttributeError, match="no attribute 'odeint_sparse'"):
        pysemi.odeint_sparse  # noqa: B018
