"""Calls that come again.

A training step asks what the last one asked, of the same vector field, with other numbers in its
tensors. What such a call led to (checked arguments, a backend, and what that has made ready) is
found again here, if nothing that it depends on has changed.
"""

from __future__ import annotations

import os
import types
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from pysemi.backends import BACKEND_VARIABLE, Backend
from pysemi.compiler.inventory import PLAIN
from pysemi.compiler.watch import Watch, watch
from pysemi.problem import Adjoint, Form, Problem, Recurring

__all__ = ["Question", "Recollection", "forget_calls", "question", "recall", "remember"]

FUNCTIONS_KNOWN = 64
QUESTIONS_KNOWN = 8
"""Of each function. Whichever came first goes first."""

MOST_CHANGES = 4
"""A function that was another at so many calls in a row is not watched any more."""

_Options: TypeAlias = tuple[Any, ...] | None


class Question(NamedTuple):
    """What was asked, but for the values in tensors.

    Attributes
    ----------
    arguments : tuple
        All others.
    options, adjoint_options : tuple or None
        As pairs, with the values of tensors.
    params : tuple of int or None
        The identities of the adjoint parameters that were given.
    state : tuple
        Shapes and kinds of the state's tensors.
    around : tuple
        What else decides: what autograd wants, and what the environment says.
    """

    arguments: tuple[Any, ...]
    options: _Options
    adjoint_options: _Options
    params: tuple[int, ...] | None
    state: tuple[Any, ...]
    around: tuple[Any, ...]

    @property
    def is_plain(self) -> bool:
        """Whether equal questions ask for the same: nothing in it can change by itself."""
        pairs = (*(self.options or ()), *(self.adjoint_options or ()))
        if not all(type(pair) is tuple for pair in pairs):
            return False
        values = (*self.arguments, *(part for pair in pairs for part in pair))
        return all(type(value) in (*PLAIN, _Values) for value in values)


class _Values(NamedTuple):
    """A tensor among the options, such as the times of jumps."""

    dtype: torch.dtype
    values: Any


MOST_VALUES = 1000
"""Of a tensor that is looked at for each call."""


def question(
    y0: Any,
    t: Any,
    backend: str,
    arguments: tuple[Any, ...],
    options: Any,
    adjoint_options: Any = None,
    params: Sequence[Any] | None = None,
) -> Question | None:
    """Describe a call; None where it is none that could be found again.

    Parameters
    ----------
    arguments : tuple
        All but the vector field and the others here.
    """
    if type(t) is not Tensor:
        return None
    if type(y0) is tuple:
        if not all(type(part) in _TENSORS for part in y0):
            return None
        state = tuple((x.shape, x.dtype, x.device, x.requires_grad) for x in y0)
    elif type(y0) in _TENSORS:
        state = (y0.shape, y0.dtype, y0.device, y0.requires_grad)
    else:
        return None
    variable = os.environ.get(BACKEND_VARIABLE) if backend == "auto" else None
    return Question(
        arguments,
        None if options is None else _pairs(options),
        None if adjoint_options is None else _pairs(adjoint_options),
        None if params is None else tuple(map(id, params)),
        state,
        (backend, variable, t.requires_grad, torch.is_grad_enabled()),
    )


_TENSORS = (Tensor, nn.Parameter)
"""Those that are what they seem: a subclass may have ideas of its own."""


def _pairs(options: Any) -> tuple[Any, ...]:
    if type(options) is not dict:
        return (options,)
    return tuple((key, _value(value)) for key, value in options.items())


def _value(option: Any) -> Any:
    if type(option) is Tensor and not option.requires_grad and option.numel() <= MOST_VALUES:
        return _Values(option.dtype, _frozen(option.tolist()))
    return option


def _frozen(values: Any) -> Any:
    return tuple(map(_frozen, values)) if isinstance(values, list) else values


@dataclass(frozen=True)
class Recollection:
    """What a question led to.

    Attributes
    ----------
    form : Form
        Of the problem.
    backend : Backend
    adjoint : Adjoint or None
        As the backend accepted it.
    """

    form: Form
    backend: Backend
    adjoint: Adjoint | None
    _watch: Watch
    _held: tuple[Any, ...]
    """What is known by its identity alone, so that nothing else can have it."""


class _Function:
    """What is known of a vector field, or of the object whose method it is."""

    def __init__(self) -> None:
        self.known: dict[Hashable, Recollection | None] = {}
        self.changes = 0


_functions: dict[int, tuple[weakref.ref[Any], _Function]] = {}


def recall(func: Any, asked: Question | None) -> Recollection | None:
    """What was remembered when this was asked before, if it still holds."""
    if asked is None:
        return None
    root, method = _root(func)
    key = (id(method), asked)
    found = _functions.get(id(root))
    if found is None or found[0]() is not root:
        return None
    function = found[1]
    try:
        known = function.known.get(key)
    except TypeError:  # an argument that has no hash
        return None
    if known is None or known.form.recurring.prepared is None:
        return None
    if known._watch.holds(root):
        function.changes = 0
        return known
    function.changes += 1
    function.known.pop(key, None)
    return None


def remember(
    func: Any,
    asked: Question | None,
    problem: Problem,
    backend: Backend,
    adjoint: Adjoint | None,
    params: Sequence[Tensor] | None = None,
) -> Problem:
    """Keep what a question led to, if it is the second time and it may be asked once more.

    Parameters
    ----------
    params : sequence of Tensor, optional
        As they were given to :func:`question`.

    Returns
    -------
    Problem
        ``problem``, or the same with something to keep what is worked out for it in.
    """
    if asked is None or not backend.prepares or not asked.is_plain:
        return problem
    root, method = _root(func)
    function = _function(root)
    if function is None or function.changes >= MOST_CHANGES:
        return problem
    key = (id(method), asked)  # a function that is held might hold the root
    if key not in function.known:  # it may be asked once, as of a function made for one call
        while len(function.known) >= QUESTIONS_KNOWN:
            function.known.pop(next(iter(function.known)))
        function.known[key] = None
        return problem
    if function.known[key] is not None:  # and the backend had nothing to keep
        return problem
    given = tuple(params or ())
    seen = watch((func, given, () if adjoint is None else adjoint.params), root)
    if seen is None:
        return problem
    form = Form(problem.layout, problem.settings, problem.trajectories, Recurring())
    function.known[key] = Recollection(form, backend, adjoint, seen, (method, *given))
    return replace(problem, recurring=form.recurring)


def forget_calls() -> None:
    """Remember nothing; a forked process has no Julia for which anything was made ready."""
    _functions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_calls)


def _root(func: Any) -> tuple[Any, Any]:
    """What lives on between calls of ``func``: a bound method is made anew each time."""
    if type(func) is types.MethodType:
        return func.__self__, func.__func__
    return func, None


def _function(root: Any) -> _Function | None:
    key = id(root)
    found = _functions.get(key)
    if found is not None and found[0]() is root:
        return found[1]
    try:
        reference = weakref.ref(root, lambda _: _functions.pop(key, None))
    except TypeError:
        return None
    while len(_functions) >= FUNCTIONS_KNOWN:
        _functions.pop(next(iter(_functions)))
    made = _Function()
    _functions[key] = reference, made
    return made
