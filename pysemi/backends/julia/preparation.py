"""Makes ready what solves are made with: a vector field, compiled or by callback, and settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysemi.backends.julia.bridge import by_bridge
from pysemi.backends.julia.call import Direction
from pysemi.backends.julia.discrete import checkpoints
from pysemi.backends.julia.events import JuliaEvent, prepare_event
from pysemi.backends.julia.fields import Binding, CallbackField, compiled_field
from pysemi.backends.julia.settings import adjoint_settings, forward_settings
from pysemi.backends.julia.verification import (
    ByIdentity,
    bind_verified,
    disagreement,
    refuted,
)
from pysemi.captured import uncovered_leaves
from pysemi.compiler.compiled import Compilation, compile_field
from pysemi.compiler.inventory import Inventory, describe_callable
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import ArgumentError
from pysemi.methods import EXPLICIT_ALGORITHMS, julia_algorithm
from pysemi.problem import Adjoint, Problem
from pysemi.runtime.border import CBackward, CForward
from pysemi.runtime.session import Session
from pysemi.trajectories import check_independent
from pysemi.warn import warn_caller

__all__ = ["Prepared", "prepare"]


ADJOINTS = {"backsolve": 0, "gauss": 1, "discrete": 2, "interpolating": 3, "quadrature": 4}
"""By their numbers in Julia."""

KEPT = {"backsolve": 1, "interpolating": 2, "gauss": 2, "quadrature": 2, "discrete": 3}
"""What a forward solve leaves for them: the states at the observation times, the whole
solution, or its steps."""


class Prepared:
    """What is ready for solves that differ in nothing but the values in tensors.

    Attributes
    ----------
    session : Session
    adjoint : Adjoint or None
    event : JuliaEvent or None
    forward : Direction
    """

    def __init__(
        self,
        running: Session,
        problem: Problem,
        adjoint: Adjoint | None,
        bindings: Sequence[Binding],
        event: JuliaEvent | None,
    ) -> None:
        self.session = running
        self.adjoint = adjoint
        self.event = event
        self._bindings = bindings
        self._refuted = refuted()
        self._trajectories = problem.trajectories
        # What was prepared for a vector field is not to keep it alive, nor what y0 came from.
        self._one = problem.one.hollow
        settings = forward_settings(self._one)
        request = CForward(
            settings=settings.c,
            keep=0 if adjoint is None else KEPT[adjoint.name],
            checkpoints=checkpoints(problem),
            event=None if event is None else event.address,
            event_field=0 if event is None else event.number,
        )
        events = () if event is None else (event,)
        self.forward = Direction(running, "forward", request, settings, bindings, events)
        self._backward: Direction | None = None

    def serves(self, adjoint: Adjoint | None) -> bool:
        """Whether a problem with this adjoint can be solved by it still."""
        return adjoint is self.adjoint and self._refuted == refuted()

    @property
    def is_lasting(self) -> bool:
        """Whether another problem can be solved by the same, be it at the same time."""
        calls_python = self._bindings[0].calls_python or self.forward.settings.calls_python
        return not calls_python and self.event is None

    @property
    def versions(self) -> Sequence[int | None]:
        """How often each tensor that the vector field reads was changed in place."""
        return self._bindings[0].versions

    def shape_at(self, times: Tensor) -> tuple[int, ...]:
        """Of the states at ``times`` as Julia writes them."""
        shape = (times.shape[-1], *self._one.y0.shape)
        return shape if self._trajectories is None else (self._trajectories, *shape)

    def backward(self) -> Direction:
        """The adjoint's direction, made when it is first wanted."""
        if self._backward is None:
            assert self.adjoint is not None
            field = self._bindings[0].field
            settings = adjoint_settings(self._one, self.adjoint, field.packed)
            request = CBackward(
                settings=settings.c,
                adjoint=ADJOINTS[self.adjoint.name],
                params_bar=field.params_bar.data_ptr(),
            )
            self._backward = Direction(self.session, "backward", request, settings, self._bindings)
        return self._backward


def prepare(
    running: Session, problem: Problem, adjoint: Adjoint | None, bridge: str, verify: str
) -> tuple[Prepared, float]:
    """Compile the vector field and the event function, or arrange for calls back into Python.

    Returns
    -------
    Prepared
    float
        Seconds spent on what was not known before.
    """
    bindings, seconds = by_bridge(
        bridge,
        describe_callable(problem.func),
        "It runs by callback, which takes about as long as torchdiffeq",
        lambda: _compiled(running, problem, adjoint, verify),
        lambda: _by_callback(running, problem, adjoint, verify),
    )
    event = None
    if problem.event_fn is not None:
        event, of_event = prepare_event(running, problem, problem.event_fn, bridge, verify)
        seconds += of_event
    return Prepared(running, problem, adjoint, bindings, event), seconds


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
