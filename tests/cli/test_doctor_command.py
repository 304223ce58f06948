"""`pysemi doctor`: what it shows, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pysemi
from pysemi.cli import main
from pysemi.config import JuliaConfig, write_julia

pytestmark = pytest.mark.usefixtures("isolated")


def test_without_a_julia_everything_works(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for expected in (pysemi.__version__, "torch", "torchdiffeq", "juliacall", "none is configured"):
        assert expected in shown
    assert "→ run" not in shown


def test_json_stands_alone_on_stdout():
    ended = subprocess.run(
        [sys.executable, "-m", "pysemi", "doctor", "--json"], capture_output=True, text=True
    )
    assert ended.returncode == 0
    answer = json.loads(ended.stdout)
    assert answer["ok"] is True
    assert answer["julia"] == {"source": None, "problem": None}
    assert answer["auto"]["name"] == "torch"


@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_a_julia_that_does_not_work_is_code_1_and_one_thing_to_run(julia_project, capsys, flags):
    write_julia(JuliaConfig(Path("/gone/julia"), julia_project))
    assert main(["doctor", *flags]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("→ run: ")] == [
        "→ run: pysemi julia use EXE --project DIR"
    ]
    assert any(line.startswith("✗ /gone/julia cannot be run") for line in lines)
    assert main(["doctor", "--json", *flags]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["remedy"] == "pysemi julia use EXE --project DIR"


def test_quick_does_not_load_and_the_default_does(
    fake_julia, fake_juliacall, julia_project, capsys
):
    fake_juliacall()
    exe = fake_julia(packages={"CUDA": ("052768ef-5323-5732-b1bb-66c8b64840ba", "5.4.0")})
    write_julia(JuliaConfig(exe, julia_project))
    assert main(["doctor", "--quick"]) == 0
    assert "loads" not in capsys.readouterr().out
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "7.7.0, loads" in shown
    assert "5.4.0, loads, finds no working GPU" in shown


def test_lines_are_not_folded_and_brackets_are_no_markup(fake_julia, tmp_path, capsys):
    project = tmp_path / ("[red]long" * 20)
    project.mkdir()
    (project / "Project.toml").write_text("")
    write_julia(JuliaConfig(fake_julia(), project))
    assert main(["doctor", "--quick"]) == 0
    assert f"{project}\n" in capsys.readouterr().out


@pytest.mark.julia
@pytest.mark.slow
def test_a_real_julia_works(real_julia, capsys):
    write_julia(real_julia)
    assert main(["doctor", "--limit", "280"]) == 0, capsys.readouterr().out
    assert "loads" in capsys.readouterr().out
