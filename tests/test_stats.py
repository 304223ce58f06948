"""What is counted, and which recording sees which solve."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

import pysemi
from tests.vector_fields import Flow, Spiral, times

Y0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)


class Counted(nn.Module):
    """Counts its own calls, as torchdiffeq's examples do."""

    def __init__(self, func):
        super().__init__()
        self.func = func
        self.calls = []

    def forward(self, t, y):
        self.calls.append(float(t.detach()))
        return self.func(t, y)


def solve_both(func, t, y0=Y0, **kwargs):
    with pysemi.record() as recording:
        out = pysemi.odeint_adjoint(func, y0, t, **kwargs)
        forward_calls = len(func.calls)
        (out[-1] if isinstance(out, tuple) else out).sum().backward()
    return recording, func.calls[:forward_calls], func.calls[forward_calls:]


@pytest.mark.parametrize("t", [times(0, 0.5, 1), times(1, 0.5, 0)], ids=["up", "down"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8"])
def test_nfe_is_the_number_of_calls_and_when(method, t):
    recording, forward, backward = solve_both(Counted(Spiral()), t, method=method, rtol=1e-5)
    for solves, calls in ((recording.forward, forward), (recording.backward, backward)):
        (stats,) = solves
        assert stats.nfe == len(calls)
        assert np.allclose(stats.evaluation_times, calls)


def test_a_dopri5_solve_costs_six_evaluations_a_step_and_two_to_start():
    recording, *_ = solve_both(Counted(Spiral()), times(0, 1), rtol=1e-6, atol=1e-8)
    for stats in (recording.forward[0], recording.backward[0]):
        assert stats.nfe == 6 * (stats.accepted + stats.rejected) + 2


@pytest.mark.parametrize("t", [times(0, 0.5, 1), times(1, 0.5, 0)], ids=["up", "down"])
def test_accepted_steps_cover_the_interval_without_gap(t):
    recording, *_ = solve_both(Counted(Spiral()), t, rtol=1e-6, atol=1e-8)
    sign = 1 if t[0] < t[-1] else -1
    (forward,) = recording.forward
    assert forward.accepted == len(forward.step_times) == len(forward.step_sizes)
    assert (forward.step_sizes > 0).all()
    ends = forward.step_times + sign * forward.step_sizes
    assert np.allclose(ends[:-1], forward.step_times[1:])
    assert forward.step_times[0] == t[0]
    (backward,) = recording.backward
    assert backward.step_times[0] == t[-1]
    # Each step starts where the one before ended, or afresh at the observation it went past.
    ends = backward.step_times - sign * backward.step_sizes
    middle = float(t[1])
    fresh = backward.step_times[1:] == middle
    assert np.allclose(ends[:-1][~fresh], backward.step_times[1:][~fresh])
    assert fresh.sum() == 1
    assert sign * ends[:-1][fresh][0] <= sign * middle
    assert sign * ends[-1] <= sign * float(t[0])


def test_rejected_steps_are_where_a_step_was_tried_again():
    recording, *_ = solve_both(
        Counted(Spiral()), times(0, 3), rtol=1e-6, atol=1e-8, options={"first_step": 2.0}
    )
    (stats,) = recording.forward
    assert stats.rejected == len(stats.rejected_times) >= 1
    assert stats.rejected_times[0] == 0.0
    assert set(stats.rejected_times) <= set(stats.step_times)


def test_every_backward_evaluation_of_a_plain_solve_takes_a_vjp():
    recording, *_ = solve_both(Counted(Spiral()), times(0, 1))
    assert recording.forward[0].nvjp == 0
    assert recording.backward[0].nvjp == recording.backward[0].nfe


def test_gradients_of_the_times_cost_evaluations_without_a_vjp():
    recording, *_ = solve_both(Counted(Spiral()), times(0, 0.5, 1).requires_grad_())
    (stats,) = recording.backward
    assert stats.nfe == stats.nvjp + 2


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_steps_on_a_fixed_grid_are_all_accepted(method):
    recording, *_ = solve_both(
        Counted(Spiral()), times(0, 1), method=method, options={"step_size": 0.1}
    )
    (stats,) = recording.forward
    assert (stats.accepted, stats.rejected) == (10, 0)
    assert stats.step_sizes == pytest.approx(np.full(10, 0.1))


def test_a_method_that_reports_no_steps_says_so():
    with pysemi.record() as recording, torch.no_grad():
        pysemi.odeint(Spiral(), Y0, times(0, 1), method="scipy_solver", rtol=1e-3)
    (stats,) = recording.forward
    assert stats.accepted is None
    assert stats.rejected is None
    assert stats.nfe > 0


def test_a_record_says_what_was_solved_and_how():
    recording, *_ = solve_both(
        Counted(Flow()),
        times(0, 1),
        y0=(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)),
        options={"norm": pysemi.StateNorm([True, False])},
        adjoint_options={"norm": "seminorm"},
        adjoint_method="bosh3",
    )
    (forward,), (backward,) = recording.forward, recording.backward
    assert (forward.direction, forward.backend, forward.bridge) == ("forward", "torch", None)
    assert (forward.method, forward.adjoint, forward.norm) == ("dopri5", None, "StateNorm")
    assert (backward.direction, backward.method) == ("backward", "bosh3")
    assert (backward.adjoint, backward.norm) == ("backsolve", "seminorm")
    assert forward.seconds > 0
    assert backward.seconds > 0
    assert backward.compile_seconds == 0


def test_the_seminorm_takes_fewer_backward_evaluations():
    def backward_nfe(norm):
        func = Counted(Spiral(width=64))
        kwargs = dict(rtol=1e-6, atol=1e-9, adjoint_options={"norm": norm})
        return solve_both(func, times(0, 2), **kwargs)[0].backward[0].nfe

    assert backward_nfe("seminorm") < backward_nfe("default")


def test_a_step_rejected_for_a_theta_alone_is_accepted_by_the_seminorm():
    class Ramp(nn.Module):
        """y and a_y are constant; a_θ alone is a curve that no polynomial step follows."""

        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, t, y):
            return (self.theta * torch.sin(40 * t)).expand_as(y)

    def backward(norm):
        recording, *_ = solve_both(
            Counted(Ramp()), times(0, 1), adjoint_options={"norm": norm, "first_step": 0.5}
        )
        return recording.backward[0]

    assert backward("default").rejected > 0
    assert backward("seminorm").rejected == 0


def test_nested_blocks_all_see_a_solve():
    with pysemi.record() as outer:
        with pysemi.record() as inner:
            pysemi.odeint(Spiral(), Y0, times(0, 1))
        pysemi.odeint(Spiral(), Y0, times(0, 1))
    assert (len(outer.forward), len(inner.forward)) == (2, 1)


def test_a_closed_block_sees_nothing_more():
    with pysemi.record() as recording:
        out = pysemi.odeint_adjoint(Spiral(), Y0, times(0, 1))
    out.sum().backward()
    assert recording.backward == []
    assert "closed" in repr(recording)


def test_a_backward_solve_is_seen_by_the_block_around_it():
    out = pysemi.odeint_adjoint(Spiral(), Y0, times(0, 1))
    with pysemi.record() as recording:
        out.sum().backward()
    assert (len(recording.forward), len(recording.backward)) == (0, 1)


def test_a_block_around_both_sees_the_backward_solve_once():
    with pysemi.record() as recording:
        pysemi.odeint_adjoint(Spiral(), Y0, times(0, 1)).sum().backward()
    assert len(recording.backward) == 1


def test_a_block_does_not_see_other_threads_solves():
    def other():
        pysemi.odeint(Spiral(), Y0, times(0, 1))

    with pysemi.record() as recording:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert recording.forward == []


def test_a_block_follows_its_forward_solve_to_the_thread_of_backward():
    with pysemi.record() as recording:
        out = pysemi.odeint_adjoint(Spiral(), Y0, times(0, 1))
        thread = threading.Thread(target=out.sum().backward)
        thread.start()
        thread.join()
    assert len(recording.backward) == 1


def test_each_thread_has_its_own_blocks():
    counts = {}

    def work(number):
        with pysemi.record() as recording:
            for _ in range(number):
                pysemi.odeint_adjoint(Spiral(), Y0, times(0, 1)).sum().backward()
        counts[number] = (len(recording.forward), len(recording.backward))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {1: (1, 1), 2: (2, 2), 3: (3, 3)}


def test_a_block_that_raises_is_closed_too():
    with pytest.raises(ZeroDivisionError), pysemi.record() as recording:
        raise ZeroDivisionError
    pysemi.odeint(Spiral(), Y0, times(0, 1))
    assert recording.forward == []


def test_recording_does_not_change_the_solution():
    plain = pysemi.odeint(Spiral(), Y0, times(0, 1))
    with pysemi.record():
        recorded = pysemi.odeint(Spiral(), Y0, times(0, 1))
    assert torch.equal(plain, recorded)


def test_nothing_is_kept_when_no_block_is_open(monkeypatch):
    from pysemi.backends import torch as backend

    monitors = []

    class Seen(backend.SolveMonitor):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            monitors.append(self)

    monkeypatch.setattr(backend, "SolveMonitor", Seen)
    pysemi.odeint_adjoint(Spiral(), Y0, times(0, 1)).sum().backward()
    assert len(monitors) == 2
    for monitor in monitors:
        stats = monitor.stats()
        assert stats.nfe > 0
        assert stats.accepted > 0
        assert len(stats.evaluation_times) == len(stats.step_times) == 0


def test_a_backward_solve_knows_how_many_states_and_parameters_it_was_for():
    """The d and p of the paper's section 3.4."""
    func = Counted(Spiral())
    recording, *_ = solve_both(func, times(0, 1), torch.ones(3, 2, dtype=torch.float64))
    parameters = sum(p.numel() for p in func.parameters())
    assert [(s.state_size, s.parameter_size) for s in recording.forward] == [(6, 0)]
    assert [(s.state_size, s.parameter_size) for s in recording.backward] == [(6, parameters)]
