"""States on a CUDA device: torch solves them there; Julia says that it does not yet."""

from __future__ import annotations

import pytest
import torch

import pysemi
from pysemi.backends import choose_backend
from pysemi.backends.julia import JuliaBackend
from pysemi.errors import ArgumentError
from pysemi.problem import pose, pose_adjoint
from tests.vector_fields import Flow, Spiral, times

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def gradients(field, y0, t, **options):
    with pysemi.record() as solves:
        y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-8, atol=1e-8, backend="torch", **options)
        loss = sum((x**2).sum() for x in (y if isinstance(y, tuple) else (y,)))
        loss.backward()
    return [p.grad.cpu() for p in field.parameters()], solves


@pytest.mark.parametrize("norm", ["default", "seminorm", "rms"])
def test_the_gpu_takes_the_cpu_s_steps_and_gets_its_gradients(norm):
    options = dict(adjoint_options=dict(norm=norm))
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    t = times(0.0, 0.5, 1.0)
    ours, on_gpu = gradients(Spiral().cuda(), y0.cuda(), t.cuda(), **options)
    theirs, on_cpu = gradients(Spiral(), y0, t, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert on_gpu.backward[0].accepted == on_cpu.backward[0].accepted
    assert on_gpu.backward[0].rejected == on_cpu.backward[0].rejected


def test_tuple_states_and_state_norms():
    y0 = (torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3), torch.zeros(4).double())
    options = dict(options=dict(norm=pysemi.StateNorm([True, False])))
    on_gpu, _ = gradients(
        Flow().cuda(), tuple(x.cuda() for x in y0), times(0.0, 1.0).cuda(), **options
    )
    on_cpu, _ = gradients(Flow(), y0, times(0.0, 1.0), **options)
    assert torch.allclose(on_gpu[0], on_cpu[0], rtol=1e-9)


def test_julia_refuses_a_state_on_the_gpu_and_auto_is_torch(monkeypatch):
    field, y0 = Spiral().cuda(), torch.ones(4, 2, dtype=torch.float64).cuda()
    problem = pose(
        field,
        y0,
        times(0.0, 1.0).cuda(),
        rtol=1e-3,
        atol=1e-3,
        method=None,
        options=None,
        event_fn=None,
    )
    adjoint = pose_adjoint(
        problem,
        method=None,
        options=None,
        adjoint_rtol=None,
        adjoint_atol=None,
        adjoint_method=None,
        adjoint_options=None,
        adjoint_params=None,
        adjoint="backsolve",
    )
    with pytest.raises(ArgumentError, match="cuda:0"):
        JuliaBackend().accept(problem, adjoint, "auto")
    monkeypatch.setenv("PYSEMI_BACKEND", "julia")
    assert choose_backend("auto", problem, adjoint, "auto")[0].name == "torch"
