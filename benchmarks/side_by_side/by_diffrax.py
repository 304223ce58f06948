"""Diffrax: a jitted value and gradient, by checkpoints or by its adjoint with the seminorm."""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

import numpy as np

from side_by_side.case import Case, Counts, Gradient, Timing
from side_by_side.problems import Problem

__all__ = ["describe", "prepare", "variants"]

MAX_STEPS = 256
"""Bounds the steps, with room to spare in every problem; and as many checkpoints are kept, so
that none is computed again."""


def describe() -> dict[str, str]:
    import diffrax  # noqa: F401
    import jax

    names = ("diffrax", "equinox", "jax", "jaxlib")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {**versions, "XLA": f"jaxlib's, on {jax.devices()[0].device_kind}"}


def variants(problem: Problem) -> tuple[str, ...]:
    return ("checkpointed", "backsolve-seminorm")


def prepare(problem: Problem, variant: str) -> Case:
    return _Jitted(problem, variant)


class _Jitted:
    """See :class:`~side_by_side.case.Case`.

    The step is one jitted function, so its parts cannot be timed: forward is a jitted
    function of the loss alone, and backward is the rest of the step.
    """

    def __init__(self, problem: Problem, variant: str) -> None:
        import diffrax
        import jax
        import jax.numpy as jnp

        from side_by_side.fields_jax import field, parameters

        controller: Any = diffrax.PIDController(rtol=problem.tolerance, atol=problem.tolerance)
        backward: Any = diffrax.PIDController(
            rtol=problem.tolerance, atol=problem.tolerance, norm=diffrax.adjoint_rms_seminorm
        )
        if problem.knots is not None:
            jumps = jnp.asarray(problem.knots[1:-1])
            controller = diffrax.ClipStepSizeController(controller, jump_ts=jumps)
            backward = diffrax.ClipStepSizeController(backward, jump_ts=jumps)
        adjoint = (
            diffrax.RecursiveCheckpointAdjoint(checkpoints=MAX_STEPS)
            if variant == "checkpointed"
            else diffrax.BacksolveAdjoint(stepsize_controller=backward, solver=diffrax.Dopri5())
        )
        times = jnp.asarray(problem.t)
        weights = jnp.asarray(problem.loss_weights)
        ends_only = problem.observations == 2
        saveat = diffrax.SaveAt(t0=True, t1=True) if ends_only else diffrax.SaveAt(ts=times)
        term = diffrax.ODETerm(field(problem))

        def loss(wanted: Any) -> Any:
            values, y0 = wanted
            solution = diffrax.diffeqsolve(
                term,
                diffrax.Dopri5(),
                t0=times[0],
                t1=times[-1],
                dt0=None,
                y0=y0,
                args=values,
                saveat=saveat,
                stepsize_controller=controller,
                adjoint=adjoint,
                max_steps=MAX_STEPS,
            )
            return jnp.sum(weights * solution.ys**2), solution.stats["num_steps"]

        self._wanted = (parameters(problem), jnp.asarray(problem.y0))
        self._forward = jax.jit(loss)
        self._step = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def solve(self) -> Gradient:
        (loss, _), (parameters, y0) = self._step(self._wanted)
        vector = np.concatenate([np.asarray(part).reshape(-1) for part in parameters])
        return Gradient(float(loss), vector, np.asarray(y0))

    def count(self) -> Counts:
        _, steps = self._forward(self._wanted)
        # Dopri5's last stage is the next step's first; two more choose the first step.
        return Counts(6 * int(steps) + 3, None)

    def step(self) -> Timing:
        import jax

        began = time.perf_counter()
        jax.block_until_ready(self._forward(self._wanted))
        between = time.perf_counter()
        jax.block_until_ready(self._step(self._wanted))
        ended = time.perf_counter()
        forward, step = between - began, ended - between
        return Timing(forward, step - forward, step)
