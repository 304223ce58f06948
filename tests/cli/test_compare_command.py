"""`pysemi compare`: its table, its JSON, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

import pysemi.comparison
from pysemi.cli import main
from pysemi.cli.compare import Adjoint, Norm
from pysemi.comparison import MODELS, STIFF_MODELS
from pysemi.comparison.measure import on_torch
from pysemi.norms import NORM_NAMES


@pytest.fixture
def seen(monkeypatch):
    """Let torch stand in for Julia; return the settings that it was asked for."""
    settings = []

    def solve(case, setting, t_gradient):
        settings.append(setting)
        return on_torch(case, setting, t_gradient)

    _use(monkeypatch, solve)
    return settings


@pytest.fixture
def wrong(monkeypatch):
    """Let a torch that is wrong by a little stand in for Julia."""

    def solve(case, setting, t_gradient):
        measured = on_torch(case, setting, t_gradient)
        return replace(
            measured, gradient=replace(measured.gradient, y0=measured.gradient.y0 * 1.001)
        )

    _use(monkeypatch, solve)


def _use(monkeypatch, solve):
    compare = partial(pysemi.comparison.compare, julia_solver=solve)
    monkeypatch.setattr(pysemi.comparison, "compare", compare)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_agreement_is_code_0_and_a_table(seen, capsys):
    assert main(["compare", "spiral"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for expected in ("float64", "1e-10", "dL/dθ", "torch, reference", "accepted", "✓ spiral"):
        assert expected in shown.out
    assert "…" not in shown.out  # nothing is cut off at the usual 80 columns


def test_disagreement_is_code_1_and_says_what(wrong, capsys):
    assert main(["compare", "spiral"]) == 1
    shown = capsys.readouterr().out
    assert "✗ spiral: dL/dy0 differs by 1.0e-03, more than 1e-07" in shown
    assert "✓" not in shown


def test_json_is_an_object_for_each_model_one_a_line(seen, capsys):
    assert main(["compare", "all", "--json", "--dtype", "float32"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["model"] for each in found] == [*MODELS, *STIFF_MODELS]
    assert all(each["agree"] and each["dtype"] == "float32" for each in found)


def test_json_of_a_disagreement_ends_with_1_too(wrong, capsys):
    assert main(["compare", "spiral", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["agree"] is False
    assert found["disagreements"] == ["dL/dy0 differs by 1.0e-03, more than 1e-07"]


def test_what_is_asked_for_reaches_the_solvers(seen, capsys):
    options = {
        "--norm": "rms", "--adjoint": "gauss", "--dtype": "float32", "--method": "Tsit5",
        "--bridge": "callback", "--controller": "torchdiffeq", "--rtol": "1e-4",
    }  # fmt: skip
    assert main(["compare", "spiral", *(word for pair in options.items() for word in pair)]) == 0
    setting = seen[0]
    assert setting == pysemi.comparison.Setting(
        dtype=torch.float32, rtol=1e-4, method="Tsit5", norm="rms", adjoint="gauss",
        bridge="callback", controller="torchdiffeq",
    )  # fmt: skip
    # The table says what torch did in place of what it has not got.
    shown = capsys.readouterr().out
    assert "torch: dopri5, backsolve" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare"], "NAME"),
        (["compare", "spirals"], "'spirals' is not one of spiral"),
        (["compare", "spiral", "--norm", "l2"], "--norm"),
        (["compare", "spiral", "--dtype", "float16"], "--dtype"),
        (["compare", "spiral", "--rtol", "0"], "--rtol"),
    ],
)
def test_a_command_that_makes_no_sense_is_code_2(seen, capsys, arguments, says):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_without_julia_one_line_names_the_way_to_one(isolated):
    # In a process of its own: here another test may have started Julia.
    command = [sys.executable, "-m", "pysemi", "compare", "spiral"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "pysemi julia use" in ended.stderr


def test_the_options_name_what_there_is():
    from pysemi.backends.julia.preparation import ADJOINTS

    assert [norm.value for norm in Norm] == list(NORM_NAMES)
    assert {adjoint.value for adjoint in Adjoint} == set(ADJOINTS)


@pytest.mark.julia
@pytest.mark.timeout(600)  # a new state of julia/PySemi is compiled first
def test_a_real_julia_agrees(real_julia, capsys):
    arguments = ["--norm", "seminorm", "--controller", "torchdiffeq", "--bridge", "compiled"]
    assert main(["compare", "spiral", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["julia"]["backward"]["bridge"] == "compiled"
    for direction in ("forward", "backward"):
        for kind in ("accepted", "rejected"):
            assert found["julia"][direction][kind] == found["torch"][direction][kind]
