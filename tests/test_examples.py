"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(name: str, *launcher: str) -> str:
    done = subprocess.run(
        [sys.executable, *launcher, EXAMPLES / name],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # for a busy machine's sake
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_spiral_is_learnt():
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output_of("spiral.py"))]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]


def test_the_neural_cde_takes_fewer_backward_evaluations_with_the_seminorm():
    shown = output_of("neural_cde.py")
    pattern = r"(default|seminorm): accuracy ([\d.]+), ([\d,]+) backward evaluations"
    found = {norm: (float(a), int(n.replace(",", ""))) for norm, a, n in re.findall(pattern, shown)}
    assert found["seminorm"][1] < 0.8 * found["default"][1]
    assert found["seminorm"][0] > 0.9


def test_two_processes_learn_what_one_does():
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    pattern = r"loss ([\d.]+) on (\d)"
    alone = re.findall(pattern, output_of("distributed.py"))
    together = re.findall(pattern, output_of("distributed.py", *torchrun))
    assert [size for _, size in alone + together] == ["1"] * 6 + ["2"] * 6
    losses, shared = ([float(loss) for loss, _ in run] for run in (alone, together))
    assert losses[-1] < 0.5 * losses[0]
    # Tolerance 1e-5, and 60 steps of training.
    assert all(abs(one - two) < 0.05 * one for one, two in zip(losses, shared, strict=True))


def test_every_example_is_tested():
    tested = {"spiral.py", "neural_cde.py", "distributed.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
