"""Runs from start to report, broken off and continued."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysemi.errors import (
    ArgumentError,
    BackendUnavailableError,
    MissingExtraError,
    ResumeError,
    SolveError,
    WorkerError,
)
from pysemi.experiments import Plan, reproduce
from pysemi.experiments.run_directory import RunDirectory
from tests.experiments.quiet import Quiet
from tests.experiments.toy import TINY, TOY, ToyTask


def plan(out: Path, **changes) -> Plan:
    defaults = {
        "experiment": TOY,
        "preset_name": "tiny",
        "preset": TINY,
        "backend": "torch",
        "arms": ("default", "seminorm"),
        "seeds": 2,
        "out": out,
        "resume": False,
        "command": "reproduce toy",
    }
    return Plan(**{**defaults, **changes})


def run(out: Path, **changes):
    return reproduce(plan(out, **changes), Quiet())


def metrics(out: Path):
    """Everything that must not depend on interruptions."""
    rows = json.loads((out / "summary.json").read_text())["rows"]
    ignored = ("seconds", "settings")  # the settings have how long a test waits
    return [{key: value for key, value in row.items() if key not in ignored} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    return out, run(out)


def test_there_is_a_row_for_each_norm_and_seed(unbroken):
    out, outcome = unbroken
    rows = json.loads((out / "summary.json").read_text())["rows"]
    assert rows == outcome.results.rows
    assert {(row["norm"], row["seed"]) for row in rows} == {
        (norm, seed) for norm in ("default", "seminorm") for seed in (0, 1)
    }
    for row in rows:
        assert {
            "experiment",
            "norm",
            "seed",
            "backend",
            "rtol",
            "atol",
            "parameters",
            "metric",
            "metric_name",
            "forward_nfe",
            "backward_nfe",
            "accepted",
            "rejected",
            "seconds",
        } <= set(row)


def test_the_row_is_the_sum_of_what_the_solves_recorded(unbroken):
    out, outcome = unbroken
    for row in outcome.results.rows:
        directory = RunDirectory(out / "runs" / f"{row['norm']}-seed{row['seed']}")
        backward = [solve for solve in directory.solves() if solve.direction == "backward"]
        forward = [solve for solve in directory.solves() if solve.direction == "forward"]
        assert len(backward) == len(forward) == 3 * 2  # epochs × batches
        assert row["backward_nfe"] == sum(solve.nfe for solve in backward)
        assert row["forward_nfe"] == sum(solve.nfe for solve in forward)
        assert row["accepted"] == sum(len(solve.step_times) for solve in backward)
        assert row["rejected"] == sum(len(solve.rejected_times) for solve in backward)
        assert {solve.norm for solve in backward} == {row["norm"]} == {row["arm"]}


def test_both_norms_start_from_the_same_model_and_data(unbroken):
    out, _ = unbroken
    first = [
        RunDirectory(out / "runs" / f"{norm}-seed0").history()[0].loss
        for norm in ("default", "seminorm")
    ]
    assert first[0] == pytest.approx(first[1], rel=1e-2)


def test_seeds_differ(unbroken):
    _, outcome = unbroken
    losses = {row["seed"]: row["loss"] for row in outcome.results.rows if row["norm"] == "default"}
    assert losses[0] != losses[1]


def test_training_lowers_the_loss(unbroken):
    out, _ = unbroken
    history = RunDirectory(out / "runs" / "default-seed0").history()
    assert history[-1].loss < history[0].loss


def test_a_run_writes_down_what_it_ran_on(unbroken):
    out, _ = unbroken
    folder = out / "runs" / "default-seed0"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"]
    assert environment["torch_threads"] >= 1
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["rtol"] == TINY.rtol
    assert config["backend"] == "torch"


def test_the_same_run_again_gives_the_same_metrics(unbroken, tmp_path):
    run(tmp_path)
    assert metrics(tmp_path) == metrics(unbroken[0])


def test_a_finished_run_is_not_run_again(unbroken, tmp_path):
    run(tmp_path)
    progress = Quiet()
    reproduce(plan(tmp_path, resume=True), progress)
    assert {event[0] for event in progress.events} == {"end"}


def test_more_seeds_can_be_added_to_a_finished_run(unbroken, tmp_path):
    run(tmp_path, seeds=1)
    run(tmp_path, seeds=2, resume=True)
    assert metrics(tmp_path) == metrics(unbroken[0])


def test_an_occupied_folder_is_not_touched_without_resume(tmp_path):
    run(tmp_path, seeds=1, arms=("default",))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ResumeError, match="add --resume"):
        run(tmp_path, seeds=1, arms=("default",))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_run_is_not_continued_with_other_settings(tmp_path):
    run(tmp_path, seeds=1, arms=("default",))
    other = dataclasses.replace(TINY, rtol=1e-4, epochs=5)
    with pytest.raises(ResumeError, match=r"epochs = 3 \(asked for: 5\).*rtol = 0.001"):
        run(tmp_path, seeds=1, arms=("default",), preset=other, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, seeds=1, arms=("default",))
    folder = tmp_path / "runs" / "default-seed0"
    (folder / "result.json").unlink()
    (folder / "checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(ResumeError, match=r"checkpoint\.pt is damaged"):
        run(tmp_path, seeds=1, arms=("default",), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ()}, "at least one norm"),
        ({"arms": ("default", "default")}, "each only once"),
        ({"arms": ("l2",)}, "'l2' is not one of"),
        ({"variants": ("wide",)}, "'wide' is no variant of this preset; there are none"),
        ({"seeds": 0}, "--seeds: 0"),
        ({"threads": 0}, "--threads: 0"),
        ({"jobs": 0}, "--jobs: 0"),
        ({"out": Path(__file__)}, "is a file"),
        ({"backend": "jax"}, "'jax'"),
        ({"out": Path(__file__) / "below"}, "cannot be written to"),
    ],
)
def test_plans_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        reproduce(plan(changes.pop("out", tmp_path / "out"), **changes), Quiet())
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_model_leave_nothing_behind(tmp_path):
    with pytest.raises(ArgumentError, match="'swish'"):
        run(tmp_path / "out", preset=dataclasses.replace(TINY, activation="swish"))
    assert not (tmp_path / "out").exists()


def test_a_package_of_the_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    from pysemi.experiments import reproduce as module

    monkeypatch.setattr(sys.modules[module.__module__], "NEEDED", ("torchcde", "no_such_package"))
    with pytest.raises(MissingExtraError, match=r"need no_such_package; run pip install 'pysemi\["):
        run(tmp_path / "out")


def test_the_number_of_threads_is_put_back(tmp_path):
    import torch

    before = torch.get_num_threads()
    run(tmp_path, seeds=1, arms=("default",), threads=before + 1)
    assert torch.get_num_threads() == before


def test_julia_is_refused_before_anything_is_written(no_julia, tmp_path):
    with pytest.raises(BackendUnavailableError):
        run(tmp_path / "out", backend="julia")
    assert not (tmp_path / "out").exists()


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("survived", [*range(6), *range(10, 15)])
def test_a_run_that_dies_at_any_file_it_writes_ends_the_same(
    unbroken, tmp_path, monkeypatch, survived
):
    """Dies instead of giving a file its name: 2 at the start, 3 an epoch, then 4."""
    written = 0
    rename = Path.replace

    def dying(self, target):
        nonlocal written
        if written == survived:
            raise PowerCutError
        written += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(PowerCutError):
        run(tmp_path, seeds=1, arms=("seminorm",))
    monkeypatch.undo()
    run(tmp_path, seeds=1, arms=("seminorm",), resume=True)
    expected = [
        row for row in metrics(unbroken[0]) if (row["norm"], row["seed"]) == ("seminorm", 0)
    ]
    assert metrics(tmp_path) == expected
    assert len(RunDirectory(tmp_path / "runs" / "seminorm-seed0").history()) == 3
    assert not list(tmp_path.rglob(".*"))


SCRIPT = """
import dataclasses, sys
from pathlib import Path
from pysemi.experiments import reproduce
from tests.experiments.quiet import Quiet
from tests.experiments.test_reproduce import plan
from tests.experiments.toy import TINY
preset = dataclasses.replace(TINY, pause=0.15)
reproduce(plan(Path(sys.argv[1]), seeds=1, preset=preset, resume=True), Quiet())
"""


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_metrics(unbroken, tmp_path):
    random.seed(0)
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    root = Path(__file__).parents[2]
    kills = 0
    while kills < 3:
        process = subprocess.Popen(arguments, cwd=root)
        known = set(tmp_path.rglob("*"))
        while process.poll() is None and set(tmp_path.rglob("*")) <= known:
            time.sleep(0.02)  # until it has written something new
        time.sleep(random.uniform(0, 0.4))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 2, "the run ended before it could be killed twice"
    subprocess.run(arguments, cwd=root, check=True, timeout=120)
    expected = [row for row in metrics(unbroken[0]) if row["seed"] == 0]
    assert metrics(tmp_path) == expected


VARIED = dataclasses.replace(
    TINY, epochs=2, variants={"tight: 1e-4": {"rtol": 1e-4}, "loose": {"rtol": 1e-2}}
)


def test_each_variant_is_run_with_its_own_settings(tmp_path):
    outcome = run(tmp_path, preset=VARIED, seeds=1)
    assert [(row["variant"], row["arm"], row["rtol"]) for row in outcome.results.rows] == [
        ("tight: 1e-4", "default", 1e-4),
        ("tight: 1e-4", "seminorm", 1e-4),
        ("loose", "default", 1e-2),
        ("loose", "seminorm", 1e-2),
    ]
    tight, loose = (outcome.results.rows[i]["backward_nfe"] for i in (0, 2))
    assert tight > loose
    folders = {path.parent.name for path in (tmp_path / "runs").glob("*/*")}
    assert folders == {"tight-1e-4", "loose"}


def test_one_variant_can_be_run_alone_and_the_others_later(tmp_path):
    first = run(tmp_path, preset=VARIED, seeds=1, variants=("loose",))
    both = run(tmp_path, preset=VARIED, seeds=1, resume=True)
    assert first.results.rows == both.results.rows[2:]


def test_runs_in_several_processes_end_as_those_made_one_after_the_other(unbroken, tmp_path):
    progress = Quiet()
    reproduce(plan(tmp_path, jobs=2), progress)
    assert metrics(tmp_path) == metrics(unbroken[0])
    told = [event[0] for event in progress.events]
    assert told.count("start") == told.count("end") == 4
    assert told.count("epoch") == 4 * 3
    assert told.count("batch") == 4 * 3 * 2


def test_the_test_pass_is_recorded_and_summed(unbroken):
    out, outcome = unbroken
    for row in outcome.results.rows:
        directory = RunDirectory(out / "runs" / f"{row['arm']}-seed{row['seed']}")
        backward = [s for s in directory.test_solves() if s.direction == "backward"]
        assert len(backward) == 1  # ten series, in one batch
        assert row["test_accepted"] == backward[0].accepted > 0
        assert row["test_rejected"] == backward[0].rejected
        assert row["test_backward_nfe"] == backward[0].nfe


def test_sizes_are_those_of_the_solves(unbroken):
    _, outcome = unbroken
    # Batch 10, 3 hidden channels; 3·4+4 and 4·6+6 parameters in the vector field.
    for row in outcome.results.rows:
        assert row["state_size"] == 30
        assert row["parameter_size"] == 46
        assert row["size_ratio"] == pytest.approx((1 + 2 * 30 + 46) / (1 + 2 * 30))


class Failing:
    """A load that makes a task whose loss fails in its second batch, or kills its process."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, preset):
        return FailingTask(preset, self.how)


class FailingTask(ToyTask):
    def __init__(self, preset, how: str) -> None:
        super().__init__(preset)
        self.how = how
        self.calls = 0

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == 2:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise SolveError("too far", direction="forward", t=0.5)
        return super().loss(model, batch)


@pytest.mark.parametrize(
    ("how", "error", "message"), [("fails", SolveError, "too far"), ("dies", WorkerError, "died")]
)
def test_what_goes_wrong_in_another_process_is_raised_here(tmp_path, how, error, message):
    failing = dataclasses.replace(TOY, load=Failing(how))
    with pytest.raises(error, match=message):
        run(tmp_path, experiment=failing, jobs=2)
    assert not (tmp_path / "summary.json").exists()


PARALLEL = SCRIPT.replace("seeds=1", "seeds=2, jobs=2").replace(
    "reproduce(plan", "if __name__ == '__main__': reproduce(plan"
)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_nothing_goes_on_after_the_process_that_wanted_the_runs(tmp_path, how):
    """Ctrl-C reaches the whole group, a kill only the first process: its workers end too."""
    script = tmp_path / "script.py"
    script.write_text(PARALLEL, "utf-8")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, str(script), str(out)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + 120
    while not list(out.rglob("checkpoint.pt")):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    assert process.wait(timeout=60) != 0
    give_up = time.monotonic() + 30
    while _members_of(process.pid):
        assert time.monotonic() < give_up, "a worker went on alone"
        time.sleep(0.1)
    assert not (out / "summary.json").exists()


def _members_of(group: int) -> list[str]:
    """Processes of the group that still run, by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text("utf-8").rsplit(")", 1)[1].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append((folder / "cmdline").read_text("utf-8"))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.slow
def test_runs_in_several_processes_each_start_a_julia_of_their_own(tmp_path):
    alone = run(tmp_path / "alone", seeds=1, backend="julia")
    together = run(tmp_path / "together", seeds=1, backend="julia", jobs=2)
    for one, other in zip(alone.results.rows, together.results.rows, strict=True):
        assert one["bridge"] == other["bridge"] == "compiled"
        assert one["backward_nfe"] == other["backward_nfe"]
        assert one["metric"] == other["metric"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
