"""From a function to its tape: made once for each structure, used by all that share it.

What was made is remembered, and kept on disk for other processes (``pysemi/kept.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pysemi import kept
from pysemi.compiler.compilation import Compilation, Kind, Subject, versions
from pysemi.compiler.evaluation import FlatField
from pysemi.compiler.inventory import Inventory, Same
from pysemi.compiler.observation import Observed, observe
from pysemi.compiler.portrait import portrait
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.compiler.written import parse, write
from pysemi.state import StateLayout, check_derivative

__all__ = [
    "Compilation",
    "Kind",
    "compile_event",
    "compile_field",
    "distrust",
    "flat_event",
    "flat_field",
]

KEPT = 256
"""Compilations remembered; the least recently used goes first."""

_log = logging.getLogger("pysemi")


def flat_field(func: Callable[[Tensor, Any], Any], layout: StateLayout) -> FlatField:
    """``func`` as a function of the flat state, as the solvers see it.

    Its result has the state's shape and dtype; :class:`~pysemi.errors.ArgumentError` if it
    cannot.
    """

    def field(t: Tensor, y: Tensor) -> Tensor:
        dy = func(t, layout.unflatten(y))
        check_derivative(dy, layout)
        return layout.flatten(dy).to(y.dtype).expand(y.shape)

    return field


def flat_event(event_fn: Callable[[Tensor, Any], Any], layout: StateLayout) -> FlatField:
    """``event_fn`` as a function of the flat state: a vector of its values, of the state's dtype.

    It raises :class:`Untranslatable` where there is no value whose sign could change.
    """

    def event(t: Tensor, y: Tensor) -> Tensor:
        values = event_fn(t, layout.unflatten(y))
        if not isinstance(values, Tensor):
            raise Untranslatable(f"it returns a {type(values).__name__}, not a tensor")
        if not values.is_floating_point():
            raise Untranslatable(f"it returns a tensor of {values.dtype}")
        if values.numel() == 0:
            raise Untranslatable("it returns a tensor without elements")
        return values.reshape(-1).to(y.dtype)

    return event


_known: OrderedDict[Any, Compilation | Untranslatable] = OrderedDict()
_distrusted: set[str] = set()
"""Names of what was found on disk, and was wrong."""
_lock = threading.RLock()


def compile_field(
    func: Callable[[Tensor, Any], Any],
    layout: StateLayout,
    t: Tensor,
    y: Tensor,
    params: Sequence[Tensor] | None,
) -> tuple[Compilation, Inventory]:
    """Return the compilation that serves ``func``, and its inventory.

    Parameters
    ----------
    func : callable
        f(t, y as the user has it).
    layout : StateLayout
    t, y : Tensor
        A point to trace at, shape ``()`` and that of the flat state.
    params : sequence of Tensor or None
        Parameters whose gradients are wanted; None for the vector field alone.

    Raises
    ------
    Untranslatable
        Saying why ``func`` cannot be compiled.
    """
    subject = Subject("field", func, flat_field(func, layout), params)
    return _compilation(subject, layout, t, y)


def compile_event(
    event_fn: Callable[[Tensor, Any], Any], layout: StateLayout, t: Tensor, y: Tensor
) -> tuple[Compilation, Inventory]:
    """Return the compilation that serves ``event_fn``, and its inventory.

    Its tape has the program "field" alone, whose result is the vector of ``event_fn``'s values.

    Parameters
    ----------
    event_fn : callable
        (t, y as the user has it) -> a floating point tensor of any shape, not empty.
    layout, t, y
        As for :func:`compile_field`.

    Raises
    ------
    Untranslatable
        Saying why ``event_fn`` cannot be compiled.
    """
    subject = Subject("event", event_fn, flat_event(event_fn, layout), None)
    return _compilation(subject, layout, t, y)


def _compilation(
    subject: Subject, layout: StateLayout, t: Tensor, y: Tensor
) -> tuple[Compilation, Inventory]:
    """What is remembered for the subject, or what is found or made now."""
    inventory = subject.inventory()
    key: tuple[Any, ...] = (
        subject.kind,
        inventory.key,
        layout,
        y.dtype,
        tuple(y.shape),
        y.device,
        subject.params is None,
    )
    with _lock:
        for candidate in (key, (key, Same(subject.func))):
            found = _known.get(candidate)
            if found is not None:
                _known.move_to_end(candidate)
                if isinstance(found, Untranslatable):
                    raise found
                return found, inventory
        try:
            made = _found_or_made(subject, layout, t.detach().to(y.dtype), y, inventory)
        except Untranslatable as reason:
            _remember(key, reason)
            raise
        # What only this object is known to need holds for this object alone.
        _remember(key if made.is_shareable else (key, Same(subject.func)), made)
        return made, inventory


def distrust(compilation: Compilation) -> bool:
    """Forget a compilation that PyTorch does not agree with, on disk too.

    Returns
    -------
    bool
        Whether it came from disk, so that one that is made now may be right.
    """
    if compilation.name is None:
        return False
    kept.remove(compilation.name)
    if not compilation.is_loaded:
        return False
    _log.warning("what was kept on disk of a compilation is wrong: it is compiled anew")
    with _lock:
        _distrusted.add(compilation.name)
        for key in [key for key, made in _known.items() if made is compilation]:
            del _known[key]
    return True


def forget_compilations() -> None:
    """Drop everything remembered in this process, for tests of what happens the first time."""
    with _lock:
        _known.clear()
        _distrusted.clear()


def _remember(key: Any, made: Compilation | Untranslatable) -> None:
    _known[key] = made
    while len(_known) > KEPT:
        _known.popitem(last=False)


def _found_or_made(
    subject: Subject, layout: StateLayout, t: Tensor, y: Tensor, inventory: Inventory
) -> Compilation:
    """What is kept on disk, or what is made now, and is kept then if it can be."""
    subject.check(y)
    began = time.perf_counter()
    name = _name(subject, layout, t, y, inventory)
    if name is not None and name not in _distrusted:
        content = kept.read(name)
        found = None if content is None else parse(content, subject, inventory)
        if found is not None:
            seconds = time.perf_counter() - began
            _log.debug("a compilation was found on disk: %.3f s, %s", seconds, name)
            return replace(found, seconds=seconds, name=name, is_loaded=True)
    from pysemi.compiler.making import make  # with all that tracing needs

    made = make(subject, t, y, inventory)
    _log.debug("compiled: %.3f s, %s", made.seconds, name or "not kept on disk")
    if name is not None and made.is_shareable:
        made = replace(made, name=name)
        kept.write(name, write(made))
    return made


def _name(
    subject: Subject, layout: StateLayout, t: Tensor, y: Tensor, inventory: Inventory
) -> str | None:
    """Under which the subject's compilation is kept on disk; None where it cannot be.

    Raises
    ------
    Untranslatable
        If the subject changes itself when it is called.
    """
    if kept.folder() is None:
        return None
    before = versions(inventory)
    seen: Observed | None = observe(lambda: subject.evaluate(t, y))
    if seen is None:
        return None
    subject.check_unchanged(inventory, before)
    shape = (subject.kind, layout.shapes, layout.is_tuple, y.dtype, tuple(y.shape), y.device)
    return portrait(subject.parts, (shape, subject.params is None, inventory.key), seen)
