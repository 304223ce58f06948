"""Training on Julia does not grow: not by its solutions, not by what they keep, not by failures."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pysemi
from pysemi.errors import SolveError
from tests.vector_fields import times

pytestmark = [
    pytest.mark.julia,
    pytest.mark.usefixtures("real_julia"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm"),
]

PAGE = 4096


def resident():
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16), nn.Tanh())

    def forward(self, t, y):
        return self.net(y)


class Trainer:
    """Steps of an optimiser; now and then a solve is dropped, fails, or comes back twice."""

    def __init__(self):
        self.field = Network()
        self.optimiser = torch.optim.Adam(self.field.parameters(), lr=1e-4)
        generator = torch.Generator().manual_seed(1)
        self.batches = torch.randn(10, 32, 16, generator=generator)
        self.count = 0

    def step(self):
        y0 = self.batches[self.count % len(self.batches)]
        adjoint = ("discrete", "discrete", "backsolve", "gauss")[self.count % 4]
        y = self.solve(y0, adjoint)
        if self.count % 5 == 0:
            self.solve(y0, adjoint)  # nobody asks for its gradient
        if self.count % 7 == 0:
            with pytest.raises(SolveError):
                self.solve(y0, adjoint, options={"max_num_steps": 2})
        self.optimiser.zero_grad()
        loss = y[-1].square().mean()
        if self.count % 3 == 0:
            loss.backward(retain_graph=True)
        loss.backward()
        self.optimiser.step()
        self.count += 1

    def solve(self, y0, adjoint, **options):
        t = times(0.0, 0.5, 2.0)
        return pysemi.odeint_adjoint(
            self.field, y0, t, rtol=1e-5, atol=1e-5, adjoint=adjoint, backend="julia", **options
        )


def growth(warm_up, windows, steps):
    """Bytes by which the process grows in each of some windows of ``steps`` after ``warm_up``."""
    trainer = Trainer()
    for _ in range(warm_up):
        trainer.step()
    sizes = [resident()]
    for _ in range(windows):
        for _ in range(steps):
            trainer.step()
        sizes.append(resident())
    return [after - before for before, after in itertools.pairwise(sizes)]


def growth_of_a_new_process(*arguments, before="pass"):
    """The same, where no other test has left garbage that Julia collects in its own time."""
    program = f"from {__name__} import *; {before}; print(*growth{arguments})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=1000,
        cwd=Path(__file__).parents[2],
    )
    return [int(word) for word in done.stdout.split()]


# What one solve keeps is a megabyte, so one of a hundred that is not let go of shows in its window.
# Julia's heap grows now and then, by tens of megabytes; what leaks does so in every window.


def test_500_steps_of_training_do_not_grow():
    grown = growth_of_a_new_process(300, 5, 100)
    assert sorted(grown)[2] < 1e6, grown


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_10_000_steps_of_training_do_not_grow():
    grown = growth_of_a_new_process(1000, 10, 1000)
    assert sorted(grown)[5] < 1e6, grown


def test_a_leak_is_seen():
    leak = "kept = []; Trainer.step = lambda self: kept.append(torch.ones(4096))"
    assert sorted(growth_of_a_new_process(10, 5, 100, before=leak))[2] > 1e6
