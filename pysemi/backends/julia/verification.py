"""Whether what was compiled agrees with the PyTorch function that it was compiled from."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from pysemi.backends.julia.fields import Binding, CompiledField, built_field, compiled_field
from pysemi.compiler.compiled import Compilation, distrust, flat_event, flat_field
from pysemi.compiler.evaluation import evaluate_joint
from pysemi.compiler.inventory import Inventory
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.problem import EventFunction, Problem
from pysemi.runtime.border import Border, Level, Status
from pysemi.runtime.session import Session

__all__ = [
    "ByIdentity",
    "bind_verified",
    "disagreement",
    "event_disagreement",
    "first_difference",
    "refuted",
]

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference allowed, relative to the largest entry: rounding, with room for
cancellation (and for constants that torch itself rounds to single precision), but far from
any mistake."""

NEAR = 1e-2
"""How far, relative to state and interval, from the start a function is compared once more."""

ROUNDINGS = 16
"""Of numbers of the state's size, by which an event function that is about 0 may differ."""

Comparison: TypeAlias = tuple[str, Tensor | None, Tensor]
"""What is compared, PyTorch's (None for zeros), and what was compiled."""

T = TypeVar("T")


class ByIdentity(Generic[T]):
    """What is known of some compilations, as long as they live."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Compilation], T]] = {}

    def __contains__(self, compilation: Compilation) -> bool:
        found = self._known.get(id(compilation))
        return found is not None and found[0]() is compilation

    def get(self, compilation: Compilation) -> T | None:
        """What is known of ``compilation``, None if nothing is."""
        return self._known[id(compilation)][1] if compilation in self else None

    def __setitem__(self, compilation: Compilation, value: T) -> None:
        key = id(compilation)
        self._known[key] = (weakref.ref(compilation, lambda _: self._known.pop(key, None)), value)


_verdicts: ByIdentity[str | None] = ByIdentity()
"""None if PyTorch agreed with what was compiled, or what differed."""

_refuted = 0


def refuted() -> int:
    """How often PyTorch has differed so far: what was prepared before may be of no use any more."""
    return _refuted


def bind_verified(
    running: Session,
    compiled: Callable[[], tuple[Compilation, Inventory]],
    compare: Callable[[Border, Binding], str | None],
    verify: str,
) -> tuple[Compilation, Binding, float | None]:
    """Bind a function to its compilation, which is held against PyTorch.

    Parameters
    ----------
    compiled : callable
        Compiles the function, and takes its inventory. Where what it found on disk differs from
        PyTorch, it is asked once more, and what was on disk is gone.
    compare : callable
        Says where Julia and PyTorch differ, None if they agree; runs on the home thread.
    verify : {"first", "always", "never"}
        When to compare: where nothing is known of the compilation yet, always, or never. What
        comes from disk is compared once in any case.

    Returns
    -------
    Compilation
    Binding
    float or None
        Seconds spent on a compilation that was not known yet, its own included if Julia had
        no such tape; None for one that was.

    Raises
    ------
    Untranslatable
        Saying what differed.
    """
    compilation, inventory = compiled()
    try:
        return compilation, *_bind_verified(running, compilation, inventory, compare, verify)
    except Untranslatable:
        if not distrust(compilation):
            raise
    compilation, inventory = compiled()
    try:
        return compilation, *_bind_verified(running, compilation, inventory, compare, verify)
    except Untranslatable:
        distrust(compilation)
        raise


def _bind_verified(
    running: Session,
    compilation: Compilation,
    inventory: Inventory,
    compare: Callable[[Border, Binding], str | None],
    verify: str,
) -> tuple[Binding, float | None]:
    global _refuted
    began = time.perf_counter()
    field = built_field(compilation)
    is_new = field is None
    if field is None:  # a handover to the home thread takes longer than all else here
        field = running.run(lambda border: compiled_field(running, border, compilation))
    binding = Binding(field, compilation.tensors(inventory), compilation.params(inventory))
    is_first = compilation not in _verdicts
    if verify == "always" or (is_first and (verify == "first" or compilation.is_loaded)):
        _verdicts[compilation] = running.run(lambda border: compare(border, binding))
        _refuted += _verdicts.get(compilation) is not None
    elif is_first:
        is_first = is_new
    reason = _verdicts.get(compilation)
    if reason is not None:
        raise Untranslatable(reason)
    if not is_first:
        return binding, None
    spent = time.perf_counter() - began
    return binding, spent + compilation.seconds if is_new else spent


def disagreement(
    border: Border, binding: Binding, problem: Problem, params: Sequence[Tensor] | None
) -> str | None:
    """Evaluate the vector field both ways at the start and near it, and say where they differ.

    On the home thread only.
    """

    def compare(t: Tensor, y: Tensor) -> str | None:
        # Fixed, and different in each direction, so that no component goes unseen.
        cotangent = torch.linspace(-1, 1.7, y.numel(), dtype=y.dtype).view(y.shape)
        return _field_difference(border, binding, problem, params, t, y, cotangent)

    return _difference_anywhere(problem, compare)


def _field_difference(
    border: Border,
    binding: Binding,
    problem: Problem,
    params: Sequence[Tensor] | None,
    t: Tensor,
    y: Tensor,
    cotangent: Tensor,
) -> str | None:
    memory = _memory(binding)
    flat = flat_field(problem.func, problem.layout)
    if params is None:
        with torch.no_grad():
            expected = flat(t, y).detach()
        failure = _evaluate(border, binding, t, y, Level.FIELD)
        return failure or first_difference([("f", expected, memory["dy"])])
    dy, y_bar, *params_bar = evaluate_joint(flat, t, y, cotangent, params)
    memory["cotangent"].copy_(cotangent.reshape(-1))
    pairs = [("f", dy, memory["dy"]), ("its VJP with respect to y", y_bar, memory["y_bar"])]
    offset = 0
    for index, (param, bar) in enumerate(zip(params, params_bar, strict=True)):
        ours = memory["params_bar"][offset : offset + param.numel()]
        pairs.append((f"its VJP with respect to parameter {index}", bar, ours))
        offset += param.numel()
    for level in (Level.JOINT, Level.PARTS):  # the second as the discrete adjoint has them
        found = _evaluate(border, binding, t, y, level) or first_difference(pairs)
        if found is not None:
            return found
    return None


def event_disagreement(
    border: Border, binding: Binding, problem: Problem, event_fn: EventFunction
) -> str | None:
    """Evaluate the event function both ways at the start and near it, and say where they differ.

    On the home thread only.
    """

    def compare(t: Tensor, y: Tensor) -> str | None:
        with torch.no_grad():
            values = flat_event(event_fn, problem.layout)(t, y)
        # A solve may well start where the last event was, and the value is nothing but rounding.
        rounding = ROUNDINGS * torch.finfo(y.dtype).eps * float(y.abs().max())
        failure = _evaluate(border, binding, t, y, Level.FIELD)
        pairs: list[Comparison] = [("event function", values, _memory(binding)["dy"])]
        return failure or first_difference(pairs, rounding)

    return _difference_anywhere(problem, compare)


def _difference_anywhere(
    problem: Problem, compare: Callable[[Tensor, Tensor], str | None]
) -> str | None:
    """Compare at the start, and at a point near it.

    A value that Python code took from a tensor, unseen by torch, is right at the first alone.
    """
    found = compare(*_start(problem))
    if found is not None:
        return found
    try:
        found = compare(*_near_start(problem))
    except Exception:  # the user's function need not be defined there
        return None
    return found and f"{found} away from where it was traced: it depends on values unseen by torch"


def _memory(binding: Binding) -> dict[str, Tensor]:
    assert isinstance(binding.field, CompiledField)
    return binding.field.memory


def _start(problem: Problem) -> tuple[Tensor, Tensor]:
    y = problem.y0.detach()
    return problem.t[0].detach().to(y.dtype), y


def _near_start(problem: Problem) -> tuple[Tensor, Tensor]:
    """A point inside the interval, with a state like the first one."""
    t, y = _start(problem)
    later = problem.t[-1].detach().to(y.dtype)
    moved = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    size = float(y.abs().mean()) or 1.0
    return t + NEAR * (later - t), y + NEAR * (y.abs() + size) * moved


def _evaluate(border: Border, binding: Binding, t: Tensor, y: Tensor, level: Level) -> str | None:
    binding.bind()
    memory = _memory(binding)
    memory["t"].fill_(t)
    memory["y"].copy_(y.reshape(-1))
    status = border.call("evaluate", binding.field.number, int(level))
    return None if status is Status.SUCCESS else f"Julia could not run it ({border.message()})"


def first_difference(pairs: Sequence[Comparison], rounding: float = 0.0) -> str | None:
    """Say which of the pairs differ, but for that much of rounding; None if none do."""
    for name, theirs, ours in pairs:
        tolerance = TOLERANCE[ours.dtype]
        difference = _relative_difference(theirs, ours, max(1e-6, rounding / tolerance))
        if not difference <= tolerance:
            return f"the compiled {name} differs from PyTorch's by {difference:.1e}"
    return None


def _relative_difference(theirs: Tensor | None, ours: Tensor, smallest_scale: float) -> float:
    if theirs is None:
        return float(ours.abs().max())
    flat = theirs.detach().reshape(-1)
    finite = torch.isfinite(flat)
    if not torch.equal(finite, torch.isfinite(ours)):
        return float("inf")
    if not finite.any():
        return 0.0
    flat, ours = flat[finite], ours[finite]
    scale = max(float(flat.abs().max()), smallest_scale)
    return float((flat - ours).abs().max()) / scale
