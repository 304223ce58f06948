"""How costs grow: axes vary what they say, peaks are seen, and curves end in a table."""

from __future__ import annotations

import json

import growth
import numpy as np
import pytest
from side_by_side.axes import AXES
from side_by_side.memory import peak_bytes
from side_by_side.workers import WorkerError

MEASURED = {
    "parameters": lambda problem: problem.parameter_count,
    "state": lambda problem: problem.y0.shape[1],
    "horizon": lambda problem: problem.t[-1] - problem.t[0],
    "observations": lambda problem: len(problem.t),
    "batch": lambda problem: len(problem.y0),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_varies_its_own_number_and_no_other(name):
    values = AXES[name].values[:2]
    first, second = map(AXES[name].problem, values)
    for value, problem in zip(values, (first, second), strict=True):
        assert MEASURED[name](problem) == pytest.approx(value, rel=0.02)
    coupled = {"state": {"parameters"}}  # a larger state has larger first and last layers
    for other in MEASURED.keys() - {name} - coupled.get(name, set()):
        assert MEASURED[other](first) == MEASURED[other](second)


def test_a_peak_is_seen_although_it_is_over():
    def peak():
        np.ones(20_000_000).sum()  # 160 MB

    found = [peak_bytes(peak) for _ in range(2)]
    assert all(bytes_ == pytest.approx(160e6, rel=0.1) for bytes_ in found)
    assert peak_bytes(lambda: None) < 10e6


@pytest.mark.parametrize(
    ("costs", "expected"), [([7.0, 7.0, 7.0, 7.0], 0.0), ([9.0, 9.0, 90.0, 900.0], 1.0)]
)
def test_the_slope_is_of_the_upper_half(costs, expected):
    assert growth.slope([1, 10, 100, 1000], costs) == pytest.approx(expected)
    assert growth.slope([5], [1.0]) is None


class StandIn:
    """A worker that takes as many milliseconds as the value, and fails from 100 on."""

    def __init__(self, package):
        self.package = package

    def ask(self, request, limit):
        if request["do"] == "describe":
            return {"versions": {self.package: "1"}}
        if request["value"] >= 100:
            raise WorkerError("no answer within 9 s")
        return {"step_s": [request["value"] / 1e3] * 3, "peak_bytes": 2_000_000}

    def stop(self):
        pass


def test_a_run_ends_in_a_table_a_file_and_a_plot(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(growth, "Worker", StandIn)
    data, drawn = tmp_path / "growth.json", tmp_path / "growth.png"
    arguments = ["--axes", "horizon", "observations", "--json", str(data), "--plot", str(drawn)]
    assert growth.main(arguments) == 0
    out = capsys.readouterr().out
    assert "| pysemi gauss | 25 (2) | 50 (2) | – | – | – | 1.00 |" in out
    assert "horizon 100, torchdiffeq odeint: no answer within 9 s" in out
    written = json.loads(data.read_text())
    assert set(written["machine"]["versions"]) == {"pysemi", "torchdiffeq"}
    assert len(written["points"]) == 2 * 5 * 3  # the first that fails is the last of its curve
    assert drawn.stat().st_size > 10_000


def test_a_real_worker_measures_a_point(monkeypatch, capsys):
    monkeypatch.setattr(growth, "VARIANTS", {"torchdiffeq": ("odeint",)})
    monkeypatch.setattr(growth, "STEP_SECONDS", 0.2)
    axis = AXES["batch"]
    monkeypatch.setitem(AXES, "batch", type(axis)(axis.what, (4, 16), axis.problem))
    assert growth.main(["--axes", "batch"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| torchdiffeq odeint | ")
    assert "–" not in row
