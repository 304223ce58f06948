"""``pysemi bench`` hands everything to the script in ``benchmarks/``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pysemi.cli import bench, main
from pysemi.cli.bench import benchmark_script

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_arguments_are_passed_on_and_the_exit_code_comes_back(monkeypatch, tmp_path, code):
    script = tmp_path / "bench.py"
    script.write_text(
        "import pathlib, sys\n"
        "pathlib.Path(__file__).with_name('arguments').write_text(repr(sys.argv[1:]))\n"
        f"sys.exit({code})\n"
    )
    monkeypatch.setattr(bench, "benchmark_script", lambda: script)
    arguments = ["--quick", "--json", "a file.json", "--problems", "a", "b", "--help", "--repeats"]
    assert main(["bench", *arguments]) == code
    assert (tmp_path / "arguments").read_text() == repr(arguments)


def test_the_checkout_s_own_script_is_found():
    root = Path(__file__).parents[2]
    assert benchmark_script() == root / "benchmarks" / "bench.py"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "--against"),
        (["--problems", "a", "nonsense"], 2, "there is no problem 'nonsense'"),
        (["--repeats", "0"], 2, "at least 1"),
        (["--against", "scipy"], 2, "invalid choice"),
    ],
)
def test_the_script_s_command_line(arguments, code, says):
    ended = subprocess.run(
        [sys.executable, benchmark_script(), *arguments], capture_output=True, text=True
    )
    assert ended.returncode == code
    assert says in ended.stdout + ended.stderr
