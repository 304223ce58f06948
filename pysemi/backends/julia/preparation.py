"""Makes ready the fields that a solve is made with: compiled, or by calls back into Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysemi.backends.julia.bridge import by_bridge
from pysemi.backends.julia.fields import Binding, CallbackField, compiled_field
from pysemi.backends.julia.verification import ByIdentity, bind_verified, disagreement
from pysemi.captured import uncovered_leaves
from pysemi.compiler.compiled import Compilation, compile_field
from pysemi.compiler.inventory import Inventory, describe_callable
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import ArgumentError
from pysemi.methods import EXPLICIT_ALGORITHMS, julia_algorithm
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.session import Session
from pysemi.trajectories import check_independent
from pysemi.warn import warn_caller

__all__ = ["prepare_fields"]


def prepare_fields(
    running: Session, problem: Problem, adjoint: Adjoint | None, bridge: str, verify: str
) -> tuple[tuple[Binding, ...], float]:
    """Compile the vector field, or arrange for calls back into Python.

    Returns
    -------
    tuple of Binding
        As many as there are threads to solve on.
    float
        Seconds spent on what was not known before.
    """
    return by_bridge(
        bridge,
        describe_callable(problem.func),
        "It runs by callback, which takes about as long as torchdiffeq",
        lambda: _compiled(running, problem, adjoint, verify),
        lambda: _by_callback(running, problem, adjoint, verify),
    )


def _by_callback(
    running: Session, problem: Problem, adjoint: Adjoint | None, verify: str
) -> tuple[tuple[Binding, ...], float]:
    if problem.trajectories is not None and verify != "never":
        check_independent(problem)
    one, params = problem.one, () if adjoint is None else adjoint.params
    field = running.run(
        lambda border: CallbackField(running, border, one.func, one.layout, one.y0, params)
    )
    return (Binding(field, (), ()),), 0.0


def _compiled(
    running: Session, problem: Problem, adjoint: Adjoint | None, verify: str
) -> tuple[tuple[Binding, ...], float]:
    params: Sequence[Tensor] | None = None if adjoint is None else adjoint.params
    if params is None and julia_algorithm(problem.settings.method) not in EXPLICIT_ALGORITHMS:
        params = ()  # an implicit method makes the Jacobian of products
    one = problem.one

    def compiled() -> tuple[Compilation, Inventory]:
        try:
            return compile_field(one.func, one.layout, one.t[0].detach(), one.y0.detach(), params)
        except (Untranslatable, ArgumentError):
            if problem.trajectories is not None:
                check_independent(problem)  # which may know the reason
            raise

    compilation, binding, seconds = bind_verified(
        running,
        compiled,
        lambda border, binding: disagreement(border, binding, one, params),
        verify,
    )
    if seconds is not None and adjoint is not None:
        _warn_of_uncovered(one, adjoint)
    if problem.trajectories is None:
        return (binding,), seconds or 0.0
    if verify == "always" or (verify == "first" and compilation not in _independent):
        check_independent(problem)
        _independent[compilation] = True
    workers = min(running.threads, torch.get_num_threads(), problem.trajectories)
    copies = running.run(
        lambda border: [
            compiled_field(running, border, compilation, copy) for copy in range(1, workers)
        ]
    )
    return (binding, *map(binding.to, copies)), seconds or 0.0


_independent: ByIdentity[bool] = ByIdentity()
"""Compilations whose fields were seen not to mix trajectories."""


def _warn_of_uncovered(problem: Problem, adjoint: Adjoint) -> None:
    """As the torch backend does: a tensor that will silently get no gradient."""
    y = problem.y0.detach().requires_grad_()
    with torch.enable_grad():
        dy = problem.layout.flatten(
            problem.func(problem.t[0].detach().to(y.dtype), problem.layout.unflatten(y))
        )
    if not dy.requires_grad:
        return
    missed = uncovered_leaves(dy, (y, *adjoint.params))
    if missed:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in missed[:3])
        where, what_to_do = (
            ("found by looking through it", "use odeint_adjoint and name them in adjoint_params")
            if adjoint.name == "discrete"
            else ("among the adjoint parameters", "add them to adjoint_params")
        )
        warn_caller(
            f"func uses {len(missed)} tensor(s) that require a gradient and are not {where} "
            f"(shapes {shapes}): they get none from this solve; {what_to_do}"
        )
