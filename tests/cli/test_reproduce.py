"""``pysemi reproduce`` through its real entry point."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysemi.cli import main
from pysemi.cli.reproduce import ARMS, _repeat_option
from pysemi.experiments import all_experiments

TINY = ["--set", "epochs=1", "--set", "train_limit=20", "--set", "test_limit=10"]
TINY += ["--set", "hidden_channels=4", "--set", "width=4", "--set", "depth=1"]
TINY += ["--seeds", "1", "--variant", "rtol 1e-3"]


def pysemi(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "pysemi", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        **kwargs,
    )


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny") / "a run"
    done = pysemi(
        "reproduce", "japanese-vowels", "--norm", "default", "seminorm", "--backend", "torch",
        *TINY, "--out", out,
    )  # fmt: skip
    return out, done


def test_the_table_is_on_stdout_and_the_files_are_named(tiny_run):
    out, done = tiny_run
    assert done.returncode == 0, done.stderr
    assert "pysemi, torch" in done.stdout
    assert "14.36 ± 1.09M" in done.stdout
    assert "…" not in done.stdout  # nothing is cut off at the usual 80 columns
    assert str(out / "summary.json") in done.stdout
    assert str(out / "report.html") in done.stdout
    rows = json.loads((out / "summary.json").read_text("utf-8"))["rows"]
    assert [row["arm"] for row in rows] == ["default", "seminorm"]
    assert all(row["experiment"] == "japanese-vowels" for row in rows)
    assert (out / "report.html").stat().st_size > 10_000


def test_an_occupied_folder_is_refused_in_one_line(tiny_run):
    out, _ = tiny_run
    done = pysemi("reproduce", "japanese-vowels", *TINY, "--out", out)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--resume" in done.stderr


def test_a_finished_run_can_be_resumed_and_shows_the_same_table(tiny_run):
    out, first = tiny_run
    again = pysemi(
        "reproduce", "japanese-vowels", "--backend", "torch", *TINY, "--out", out, "--resume"
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout


def test_a_run_is_not_resumed_with_other_settings(tiny_run):
    out, _ = tiny_run
    done = pysemi("reproduce", "japanese-vowels", "--out", out, "--resume")
    assert done.returncode == 1
    assert re.search(r"epochs = 1 \(asked for: \d+\)", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_terminal_shows_loss_accuracy_and_nfe_as_they_come(tmp_path):
    done = pysemi(
        "reproduce", "japanese-vowels", "--norm", "seminorm", *TINY, "--set", "epochs=9",
        "--out", tmp_path / "out",
        env={**os.environ, "TTY_COMPATIBLE": "1", "COLUMNS": "150"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"rtol 1e-3: seminorm, seed 0.*[1-8]/9.*"
        r"loss \d+\.\d+  accuracy 0\.\d+  bwd\. NFE [1-9]",
        done.stderr,
    )


def test_list_names_every_experiment_and_preset(capsys):
    assert main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    words = ("japanese-vowels", "spoken-digits", "quick", "smooth", "full", "table-4", "figure-6")
    for word in words:
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME: missing"),
        (["mnist"], "'mnist' is no experiment; there are acrobot"),
        (["japanese-vowels", "--variant", "wide"], "'wide' is no variant"),
        (["japanese-vowels", "--jobs", "0"], "--jobs: 0"),
        (["japanese-vowels", "--from", "results"], "--from: is for table-4 and figure-6"),
        (["all", "--preset", "huge"], "no experiment has a preset 'huge'"),
        (["all", "--norm", "rms"], "name that experiment"),
        (["japanese-vowels", "--preset", "huge"], "'huge' is no preset"),
        (["japanese-vowels", "--norm", "l2"], "'l2' is not one of"),
        (["japanese-vowels", "--norm", "default", "default"], "each only once"),
        (["japanese-vowels", "--seeds", "0"], "--seeds: 0"),
        (["japanese-vowels", "--seeds", "many"], "--seeds"),
        (["japanese-vowels", "--backend", "jax"], "'jax'"),
        (["japanese-vowels", "--set", "epochs"], "KEY=VALUE"),
        (["japanese-vowels", "--set", "epoch=1"], "is no setting"),
        (["japanese-vowels", "--no-such-option"], "--no-such-option"),
        (["japanese-vowels", "extra"], "extra"),
        (["japanese-vowels", "--norm"], "--norm"),
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    out = ["--out", str(tmp_path / "out")] if arguments else []
    # The out option goes first, so that an option at the end lacks its value.
    assert main(["reproduce", *out, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()


def test_a_missing_julia_backend_is_said_in_one_line(no_julia, capsys, tmp_path):
    code = main(
        ["reproduce", "japanese-vowels", "--backend", "julia", "--out", str(tmp_path / "out")]
    )
    assert code == 1
    assert "pysemi julia use EXE --project DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "rewritten"),
    [
        (["--norm", "default", "seminorm"], ["--norm", "default", "--norm", "seminorm"]),
        (["--norm", "default", "NAME"], ["--norm", "default", "NAME"]),
        (["--norm", "rms", "--seeds", "2"], ["--norm", "rms", "--seeds", "2"]),
        (["default", "seminorm"], ["default", "seminorm"]),
        (["--norm=default", "seminorm"], ["--norm=default", "seminorm"]),
        (
            ["--norm", "default", "seminorm", "rms", "x"],
            ["--norm", "default", "--norm", "seminorm", "--norm", "rms", "x"],
        ),
        (["--norm"], ["--norm"]),
    ],
)
def test_one_norm_option_takes_several_values(given, rewritten):
    assert _repeat_option(given, "--norm", ARMS) == rewritten


def test_the_command_line_knows_what_the_experiments_compare():
    known = {arm for experiment in all_experiments().values() for arm in experiment.known_arms}
    assert set(ARMS) == known


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_leaves_a_run_that_resumes(tmp_path):
    out = tmp_path / "out"
    arguments = ["reproduce", "japanese-vowels", "--norm", "seminorm", *TINY, "--out", str(out)]
    arguments[arguments.index("epochs=1")] = "epochs=30"
    process = subprocess.Popen(
        [sys.executable, "-m", "pysemi", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = out / "runs" / "rtol-1e-3" / "seminorm-seed0" / "checkpoint.pt"
    deadline = time.monotonic() + 200
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"--resume to go on from {out}" in errors
    done = pysemi(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "summary.json").read_text("utf-8"))["rows"]
    assert rows[0]["epochs"] == 30


def test_a_module_run_and_the_console_script_are_the_same_program():
    script = Path(sys.executable).parent / "pysemi"
    shown = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == pysemi("--version").stdout
