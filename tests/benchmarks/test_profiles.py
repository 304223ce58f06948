"""The small scripts that say where time goes run, and their numbers belong together."""

from __future__ import annotations

import re
import sys

import kernels
import overhead
import pytest
import start


def numbers(line):
    return [float(cell) for cell in line.strip("| ").split("|")[1:]]


@pytest.mark.julia
def test_kernels_of_a_problem_and_their_share_of_a_step(real_julia, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kernels.py", "b"])
    monkeypatch.setattr(kernels, "STEPS", 5)
    kernels.main()
    out = capsys.readouterr().out
    programs = re.findall(r"^(\w+): [\d.]+ µs", out, re.MULTILINE)
    assert programs == ["field", "record", "reverse", "gather", "gathered"]
    assert out.count(" = matmul ") >= 6
    step, forward, of_f, backward, of_products = numbers(out.splitlines()[-1])
    assert step > forward > of_f > 0
    assert step > backward > of_products > 0


@pytest.mark.julia
def test_overhead_of_each_adjoint(real_julia, capsys, monkeypatch):
    monkeypatch.setattr(overhead, "STEPS", 5)
    overhead.main()
    table = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("|")[1].strip() for line in table][1:] == ["discrete", "gauss", "backsolve"]
    for line in table[1:]:
        step, inside = map(float, line.split("|")[2:4])
        assert 0 < inside < step


def test_imports_are_timed_in_a_process_of_their_own(tmp_path):
    (seconds,) = start.measured("imports", folder=tmp_path).values()
    assert 0 < seconds < 30


def test_kernels_are_waited_for_until_they_are_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "COMPILED_WITHIN", 0.2)
    assert start.wait_for_kernels(tmp_path)  # there are none
    package = tmp_path / "kernels" / "ab" / "PySemiKernels_1"
    package.mkdir(parents=True)
    (package / "Project.toml").touch()
    assert not start.wait_for_kernels(tmp_path)
    image = tmp_path / "kernels" / "ab" / "compiled" / "v1.10" / "PySemiKernels_1" / "x.ji"
    image.parent.mkdir(parents=True)
    image.touch()
    assert start.wait_for_kernels(tmp_path)


@pytest.mark.julia
def test_first_gradients_are_timed(real_julia, capsys):
    found = start.gradients("perceptron-tanh")
    assert list(found) == ["first", "the same again", "the same structure, other weights"]
    assert 0 < found["the same again"] < found["first"]
    assert "kernels" in capsys.readouterr().err
