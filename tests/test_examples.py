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


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
def test_the_rates_of_stiff_reactions_are_learnt_where_dopri5_does_not_get_on():
    shown = output_of("stiff.py")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.e+-]+)", shown)]
    assert losses[-1] < 0.01 * losses[0]
    rates = [float(rate) for rate in re.findall(r"rates (.*), (.*), (.*)", shown)[0]]
    assert rates == pytest.approx([0.04, 3e7, 1e4], rel=0.1)
    (reached,) = re.findall(r"dopri5 was at t = ([\d.]+) after 100,000 steps", shown)
    assert float(reached) < 1000  # of 10,000


def test_a_learnt_hamiltonian_keeps_its_energy():
    shown = output_of("hamiltonian.py")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.e+-]+)", shown)]
    assert losses[-1] < 0.1 * losses[0]
    learnt, true = map(float, re.findall(r"stays within ([\d.]+)", shown))
    assert learnt < 0.002  # found: 0.0002
    assert true < 0.05  # found: 0.013


def test_a_flow_learns_two_moons_with_either_norm():
    shown = output_of("cnf_2d.py")
    for norm in ("default", "seminorm"):
        nats = [float(x) for x in re.findall(rf"{norm}, step \d+: ([\d.]+) nats", shown)]
        assert len(nats) == 3
        assert nats[-1] < nats[0] - 0.2
    assert len(re.findall(r"[\d,]+ backward evaluations", shown)) == 2


def test_every_example_is_tested():
    tested = {
        "cnf_2d.py",
        "distributed.py",
        "hamiltonian.py",
        "neural_cde.py",
        "spiral.py",
        "stiff.py",
    }
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
