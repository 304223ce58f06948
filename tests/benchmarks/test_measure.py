"""Gradients are checked before anything is timed, packages take turns, and rows are complete."""

from __future__ import annotations

import json
import math
import sys
import textwrap

import pytest
from side_by_side.measure import Budget, Row, alternating, measure
from side_by_side.problems import build
from side_by_side.report import ratios_table, rows_table, write_json
from side_by_side.targets import outcomes
from side_by_side.workers import Worker, WorkerError, unset_variables, worker_environment

pytestmark = pytest.mark.timeout(60)

PROBLEM = build("b", 2)
RIGHT = {
    "first_s": 2.0,
    "loss": 1.5,
    "loss_error": 1e-6,
    "gradient_error": 1e-5,
    "nfe_forward": 50,
    "nfe_backward": None,
}


class StandIn:
    """A worker whose variants find what they are told to find."""

    def __init__(self, package, log, **variants):
        self.package = package
        self.log = log
        self.variants = variants

    def ask(self, request, limit):
        what = request["do"]
        if what == "variants":
            return {"variants": list(self.variants)}
        if what == "forget":
            return {}
        variant = request["variant"]
        self.log.append((what, self.package, variant))
        found = self.variants[variant]
        if isinstance(found, Exception):
            raise found
        if what == "prepare":
            return {**RIGHT, **found}
        return {"forward_s": [0.001], "backward_s": [0.002], "step_s": [0.003], "cpus": 1.0}


def rows_of(*workers, turns=2, tmp_path=None):
    return measure(PROBLEM, workers, tmp_path or ".", Budget(turns=turns))


def test_packages_take_turns():
    log = []
    rows_of(StandIn("one", log, x={}, y={}), StandIn("two", log, z={}))
    timed = [(package, variant) for what, package, variant in log if what == "time"]
    assert timed == 2 * [("one", "x"), ("two", "z"), ("one", "y")]
    assert [what for what, *_ in log[:3]] == 3 * ["prepare"]
    assert alternating([], str) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"gradient_error": 0.5}, "wrong: its gradient is 5.0e-01 off"),
        ({"gradient_error": math.nan}, "wrong: its gradient"),
        ({"loss_error": 0.1}, "wrong: its loss"),
        (WorkerError("no answer within 5 s"), "failed: no answer within 5 s"),
    ],
)
def test_what_is_wrong_is_reported_and_not_timed(found, says):
    log = []
    wrong, right = rows_of(StandIn("one", log, bad=found, good={}))
    assert wrong.note.startswith(says)
    assert wrong.step_ms is wrong.forward_ms is wrong.compile_s is None
    assert right.note is None
    assert right.step_ms == pytest.approx(3.0)
    assert ("time", "one", "bad") not in log
    assert says in rows_table([wrong, right])
    assert wrong.as_dict()["gradient_error"] in (None, 0.5, RIGHT["gradient_error"])


def test_a_row_has_medians_and_what_the_first_step_took_longer():
    (row,) = rows_of(StandIn("one", [], x={}))
    assert (row.forward_ms, row.backward_ms) == (pytest.approx(1), pytest.approx(2))
    assert row.spread == pytest.approx([3, 3])
    assert row.compile_s == pytest.approx(2.0 - 0.003)
    assert (row.nfe_forward, row.nfe_backward) == (50, None)


def test_the_file_has_the_agreed_form(tmp_path):
    rows = rows_of(StandIn("one", [], x={}, bad={"gradient_error": math.inf}))
    path = tmp_path / "folder" / "bench.json"
    write_json(path, {"cpu": "a µ-processor", "threads": 1}, rows)
    written = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert set(written) == {"machine", "rows"}
    agreed = {
        "problem", "observations", "package", "variant", "dtype", "forward_ms", "backward_ms",
        "step_ms", "spread", "compile_s", "nfe_forward", "nfe_backward", "loss", "gradient_error",
    }  # fmt: skip
    assert all(agreed <= set(row) for row in written["rows"])
    assert written["rows"][1]["gradient_error"] is None


def timed(package, variant, step_ms, problem="a", observations=20):
    return Row(problem, observations, package, variant, step_ms=step_ms)


def test_ratios_are_of_the_fastest_variants_and_know_their_targets():
    rows = [
        timed("pysemi", "gauss", 2.0),
        timed("pysemi", "discrete", 1.0),
        timed("torchdiffeq", "odeint", 30.0),
        timed("torchdiffeq", "adjoint-seminorm", 90.0),
        timed("torchdiffeq", "adjoint", 20.0),  # with the default norm: no target is about it
        timed("diffrax", "checkpointed", 4.0),
        timed("diffrax", "backsolve-seminorm", 2.0),
    ]
    fastest, seminorm, diffrax = outcomes(rows)
    assert (fastest.value, fastest.target, fastest.met) == (30, 25, True)
    assert (seminorm.value, seminorm.target, seminorm.met) == (90, 100, False)
    assert (diffrax.value, diffrax.target, diffrax.met) == (0.5, 0.4, False)
    assert ratios_table(rows).count("discrete") == 3
    assert outcomes(rows[2:]) == []
    assert ratios_table(rows[2:]) == ""


def test_without_a_time_there_is_no_ratio_but_the_line_stays():
    rows = [timed("pysemi", "discrete", None), timed("diffrax", "checkpointed", 4.0)]
    (outcome,) = outcomes(rows)
    assert outcome.value is outcome.met is None


ECHO = textwrap.dedent(
    """
    import json, sys, time
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "fail":
            print(json.dumps({"error": "KeyError: no"}), flush=True)
        elif request["do"] == "crash":
            sys.exit("the last words")
        elif request["do"] == "hang":
            time.sleep(60)
        else:
            print(json.dumps(request), flush=True)
    """
)


def test_a_worker_that_fails_crashes_or_hangs_is_an_error_and_the_next_request_is_served():
    worker = Worker("any", [sys.executable, "-c", ECHO])
    try:
        assert worker.ask({"do": "echo"}, 30) == {"do": "echo"}
        with pytest.raises(WorkerError, match="KeyError: no"):
            worker.ask({"do": "fail"}, 30)
        with pytest.raises(WorkerError, match="ended with code 1: the last words"):
            worker.ask({"do": "crash"}, 30)
        with pytest.raises(WorkerError, match="no answer within"):
            worker.ask({"do": "hang"}, 0.5)
        assert worker.ask({"do": "echo"}, 30) == {"do": "echo"}
    finally:
        worker.stop()


def test_workers_run_with_one_thread_and_without_settings_of_a_blas():
    here = {"OPENBLAS_CORETYPE": "Prescott", "MKL_DEBUG_CPU_TYPE": "5", "HOME": "/home/me"}
    assert unset_variables(here) == ["MKL_DEBUG_CPU_TYPE", "OPENBLAS_CORETYPE"]
    environment = worker_environment({**here, "OMP_NUM_THREADS": "8"})
    assert "OPENBLAS_CORETYPE" not in environment
    assert "MKL_DEBUG_CPU_TYPE" not in environment
    assert environment["HOME"] == "/home/me"
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert "--xla_cpu_multi_thread_eigen=false" in environment["XLA_FLAGS"]
