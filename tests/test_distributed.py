"""Training on several processes with DistributedDataParallel: two real ones, over gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed_rank import Solution, initial_states, one_solve, train, two_solves

ROOT = Path(__file__).parents[1]
SIZE = 2

SAME = 1e-7
"""Relative difference of gradients: each process takes steps of its own, at tolerance 1e-10."""


@pytest.fixture(
    scope="module",
    params=["torch", pytest.param("julia", marks=pytest.mark.julia)],
)
def backend(request):
    if request.param == "julia":
        request.getfixturevalue("real_julia")
    return request.param


@pytest.fixture(scope="module")
def ranks(backend, tmp_path_factory):
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed_rank", str(rank), str(SIZE), backend, folder],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        output = [process.communicate(timeout=280)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * SIZE, "\n".join(output)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


def difference(found, expected):
    assert found.keys() == expected.keys()
    pairs = [(found[name], expected[name]) for name in expected]
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def test_gradients_are_those_of_one_process_on_the_joined_batch(backend, ranks):
    expected = one_solve(Solution(backend), initial_states())
    assert all(difference(rank["one solve"], expected) < SAME for rank in ranks)
    alone = one_solve(Solution(backend), initial_states()[::SIZE])
    assert difference(alone, expected) > 0.01  # so one process's own part would have been noticed


def test_several_solves_may_come_before_a_backward_pass(backend, ranks):
    expected = two_solves(Solution(backend), initial_states())
    assert all(difference(rank["two solves"], expected) < SAME for rank in ranks)


def test_gradients_may_be_accumulated_before_they_are_shared(backend, ranks):
    expected = one_solve(Solution(backend), initial_states())
    assert all(difference(rank["accumulated"], expected) < SAME for rank in ranks)


def test_parameters_after_the_solve_may_be_unused(backend, ranks):
    expected = one_solve(Solution(backend), initial_states(), with_head=False)
    for rank in ranks:
        used = {name: grad for name, grad in rank["head unused"].items() if "field" in name}
        assert difference(used, {name: expected[name] for name in used}) < SAME
    expected = one_solve(Solution(backend), initial_states())
    assert all(difference(rank["head used again"], expected) < SAME for rank in ranks)


def test_the_graph_may_be_declared_static(backend, ranks):
    expected = one_solve(Solution(backend), initial_states())
    assert all(difference(rank["static graph"], expected) < SAME for rank in ranks)


def test_parameters_from_the_first_process_are_not_missed(ranks):
    first, second = ranks
    assert torch.equal(first["states before"], first["states after"])
    assert not torch.allclose(second["states before"], first["states before"], rtol=0.01)
    assert torch.equal(second["states after"], first["states after"])


def test_all_processes_end_with_the_same_parameters(backend, ranks):
    first, second = (rank["trained"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    expected = train(Solution(backend), initial_states(), steps=4)
    assert difference(first, expected) < SAME


def test_all_processes_solve_on_the_backend_asked_for(backend, ranks):
    bridge = "compiled" if backend == "julia" else None
    for rank in ranks:
        assert rank["backends"] == [(backend, bridge)] * 2
