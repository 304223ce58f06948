"""The first start after an installation, by several processes at once: PySemi.jl is compiled."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.runtime.test_processes import PREAMBLE, ROOT

pytestmark = [
    pytest.mark.julia,
    pytest.mark.slow,
    pytest.mark.timeout(1500),  # two compilations of 100 s each, on as many cores as there are
]

PROGRAM = (
    PREAMBLE
    + """
if close(gradient(), gradient("torch")):
    print("solved")
"""
)


@pytest.fixture
def start(real_julia, tmp_path):
    """Start a program on a copy of pysemi that no Julia has compiled yet, its depot empty."""
    checkout = tmp_path / "checkout"
    for folder in ("pysemi", "julia", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    config = tmp_path / "config"
    config.mkdir()
    # Its depot is the environment's affair: the new one, and then the one with the solvers.
    julia = {**real_julia.as_dict(), "depot": None}
    (config / "config.json").write_text(json.dumps({"julia": julia}))
    below = str(real_julia.depot or os.environ.get("JULIA_DEPOT_PATH", ""))
    variables = {
        "PYTHONPATH": str(checkout),
        "PYSEMI_CONFIG_DIR": str(config),
        "JULIA_DEPOT_PATH": os.pathsep.join([str(tmp_path / "depot"), below, ""]),
    }
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **variables},
            start_new_session=True,  # so that what it starts can be killed with it
        )
        started.append(process)
        return process

    yield start
    for process in started:
        kill(process)


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(process, timeout):
    out, errors = process.communicate(timeout=timeout)
    return process.returncode, out.split(), errors


def until(condition, timeout):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.2)


def test_several_at_once_and_one_that_is_killed_leave_an_installation_that_works(start, tmp_path):
    def images():
        return list((tmp_path / "depot").rglob("compiled/*/PySemi/*.ji"))

    def compiling():
        return list((tmp_path / "depot").rglob("compiled/*/PySemi/*"))

    victim, other = start(), start()
    until(compiling, timeout=200)
    time.sleep(15)  # in the middle of it
    assert images() == []
    assert victim.poll() is None
    kill(victim)
    code, out, errors = outcome(other, timeout=900)
    assert (code, out) == (0, ["solved"])
    # Julia says so where the one that it waited for is no more.
    assert all("stale pidfile" in line for line in errors.splitlines() if "Warning" in line), errors
    assert "ERROR" not in errors
    # So are the adjoints, at the start and not in the midst of a training.
    assert list((tmp_path / "depot").rglob("compiled/*/PySemiAdjoints/*.ji"))
    (image,) = images()
    compiled = image.stat().st_ino

    first, second = start(), start()  # nothing is left to be compiled, or to be waited for
    for process in (first, second):
        assert outcome(process, timeout=300) == (0, ["solved"], "")
    assert images() == [image]
    assert image.stat().st_ino == compiled
