"""Solves are read back as they were written."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pysemi.experiments.solve_log import read_solves, write_solves
from pysemi.stats import SolveStats

times = hnp.arrays(np.float64, st.integers(0, 4), elements=st.floats(-10, 10))
counts = st.integers(0, 10**9)
solves = st.builds(
    SolveStats,
    direction=st.sampled_from(["forward", "backward"]),
    backend=st.sampled_from(["torch", "julia"]),
    method=st.sampled_from(["dopri5", "Tsit5"]),
    norm=st.sampled_from(["default", "seminorm"]),
    adjoint=st.sampled_from([None, "backsolve"]),
    bridge=st.sampled_from([None, "compiled"]),
    nfe=counts,
    nvjp=counts,
    accepted=st.none() | counts,
    rejected=st.none() | counts,
    step_times=times,
    step_sizes=times,
    rejected_times=times,
    evaluation_times=times,
    seconds=st.floats(0, 1e6),
    compile_seconds=st.floats(0, 1e6),
    state_size=counts,
    parameter_size=counts,
    trajectory=st.none() | counts,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(solves, max_size=4))
def test_solves_survive_the_round_trip(tmp_path, written):
    path = tmp_path / "solves.npz"
    write_solves(path, written)
    read = read_solves(path)
    assert len(read) == len(written)
    for before, after in zip(written, read, strict=True):
        for field in fields(SolveStats):
            old, new = getattr(before, field.name), getattr(after, field.name)
            if isinstance(old, np.ndarray):
                assert np.array_equal(old, new)
            else:
                assert old == new
                assert type(old) is type(new)
