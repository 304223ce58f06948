"""The whole benchmark on one small problem, against the one peer that is always there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pysemi.cli.bench import benchmark_script

pytestmark = pytest.mark.timeout(120)


def test_the_script_measures_torchdiffeq_and_leaves_out_what_is_not_there(tmp_path):
    out = tmp_path / "bench.json"
    (tmp_path / "empty").mkdir()
    # As where neither torchode is installed nor a Julia configured.
    hidden = tmp_path / "hidden" / "torchode.py"
    hidden.parent.mkdir()
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'torchode'\")\n")
    ended = subprocess.run(
        [sys.executable, benchmark_script(), "--problems", "b", "--repeats", "1", "--json", out,
         "--against", "torchdiffeq", "torchode", "--limit", "60"],
        capture_output=True,
        text=True,
        timeout=110,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(hidden.parent), os.environ.get("PYTHONPATH", "")]),
            "PYSEMI_CONFIG_DIR": str(tmp_path / "empty"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "PATH": "/usr/bin:/bin",
        },
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert sum(line.startswith("pysemi is left out: ") for line in lines) == 1
    assert sum(line.startswith("torchode is left out: ") for line in lines) == 1
    written = json.loads(out.read_text("utf-8"))
    assert [row["variant"] for row in written["rows"]] == ["odeint", "adjoint-seminorm", "adjoint"]
    for row in written["rows"]:
        assert row["note"] is None
        assert row["step_ms"] > 0
        assert row["gradient_error"] < 1e-3
        assert row["nfe_forward"] > 10
    assert written["rows"][0]["nfe_backward"] == 0
    machine = written["machine"]
    assert machine["threads"] == 1
    assert machine["command"].startswith("pysemi bench --problems b ")
    assert {"torchdiffeq", "torch", "torch BLAS"} <= set(machine["versions"]["torchdiffeq"])
