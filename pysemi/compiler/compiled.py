"""From a function to its tape: traced once for each structure, used by all that share it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pysemi.compiler.graph import Node
from pysemi.compiler.inventory import Inventory, Same, take_inventory
from pysemi.compiler.lower import Place, Results, lower
from pysemi.compiler.records import split
from pysemi.compiler.tape import Role, Tape
from pysemi.compiler.trace import FlatField, Traced, trace_field, trace_joint
from pysemi.compiler.translate import translate
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.state import StateLayout, check_derivative

__all__ = ["Compilation", "Kind", "compile_event", "compile_field", "flat_event", "flat_field"]

DTYPES = (torch.float32, torch.float64)
"""Of the states that can be compiled."""

KEPT = 256
"""Compilations remembered; the least recently used goes first."""

Kind: TypeAlias = Literal["field", "event"]
"""A vector field, or an event function."""


@dataclass(frozen=True)
class Compilation:
    """What all vector fields, or all event functions, of one structure share.

    Attributes
    ----------
    kind : str
        Which of the two; the same tape may be made for both.
    tape : Tape
    sources : tuple of (int or Tensor)
        For each of the tape's buffers of role "tensor": which of the inventory's
        tensors it holds, or the tensor itself, where the walk did not find it.
    param_sources : tuple of int
        For each parameter, its place in the inventory.
    seconds : float
        Spent on tracing and lowering.
    """

    kind: Kind
    tape: Tape
    sources: tuple[int | Tensor, ...]
    param_sources: tuple[int, ...]
    seconds: float

    @property
    def is_shareable(self) -> bool:
        """Whether it serves other functions of the structure too."""
        return all(isinstance(source, int) for source in self.sources)

    def tensors(self, inventory: Inventory) -> list[Tensor]:
        """The tensors that a function's tape reads, in the order of the buffers."""
        return [
            inventory.tensors[source] if isinstance(source, int) else source
            for source in self.sources
        ]

    def params(self, inventory: Inventory) -> list[Tensor]:
        """The parameters, in the order in which they are packed."""
        return [inventory.tensors[index] for index in self.param_sources]


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


@dataclass(frozen=True)
class _Subject:
    """What is to be compiled.

    Attributes
    ----------
    kind : str
        A vector field and an event function may be the same object.
    func : callable
        As the user gave it.
    flat : callable
        ``func`` as a function of the flat state.
    params : sequence of Tensor or None
        Parameters whose gradients are wanted; None for the values alone.
    """

    kind: Kind
    func: Callable[[Tensor, Any], Any]
    flat: FlatField
    params: Sequence[Tensor] | None

    def inventory(self) -> Inventory:
        return take_inventory((self.func, tuple(self.params or ())))

    def trace(self, t: Tensor, y: Tensor) -> Traced:
        if self.params is None:
            return trace_field(self.flat, t, y)
        return trace_joint(self.flat, t, y, torch.ones_like(y), self.params)

    @property
    def inputs(self) -> list[str]:
        """Of what is traced, in order."""
        return ["t", "y"] if self.params is None else ["t", "y", "cotangent"]

    @property
    def results(self) -> list[str]:
        """Of what is traced, in order."""
        return ["dy"] if self.params is None else ["dy", "y_bar", *self.bars]

    @property
    def bars(self) -> list[str]:
        """Of the parameters, in order."""
        return [f"param_bar{index}" for index in range(len(self.params or ()))]


_known: OrderedDict[Any, Compilation | Untranslatable] = OrderedDict()
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
    subject = _Subject("field", func, flat_field(func, layout), params)
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
    subject = _Subject("event", event_fn, flat_event(event_fn, layout), None)
    return _compilation(subject, layout, t, y)


def _compilation(
    subject: _Subject, layout: StateLayout, t: Tensor, y: Tensor
) -> tuple[Compilation, Inventory]:
    """What is remembered for the subject, or what is made now."""
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
            made = _compile(subject, t, y, inventory)
        except Untranslatable as reason:
            _remember(key, reason)
            raise
        # What only this object is known to need holds for this object alone.
        _remember(key if made.is_shareable else (key, Same(subject.func)), made)
        return made, inventory


def forget_compilations() -> None:
    """Drop everything remembered, for tests of what happens the first time."""
    with _lock:
        _known.clear()


def _remember(key: Any, made: Compilation | Untranslatable) -> None:
    _known[key] = made
    while len(_known) > KEPT:
        _known.popitem(last=False)


def _compile(subject: _Subject, t: Tensor, y: Tensor, inventory: Inventory) -> Compilation:
    began = time.perf_counter()
    _check(y, subject.params or ())
    versions = [_version(tensor) for tensor in inventory.tensors]
    try:
        traced = subject.trace(t.detach().to(y.dtype), y)
    except Untranslatable:
        _check_unchanged(subject, inventory, versions)  # names more than an operator
        raise
    _check_unchanged(subject, inventory, versions)
    tape, sources = _lower(subject, traced, y, inventory)
    places = {id(tensor): index for index, tensor in enumerate(inventory.tensors)}
    param_sources = tuple(places[id(param)] for param in subject.params or ())
    return Compilation(subject.kind, tape, sources, param_sources, time.perf_counter() - began)


def _check(y: Tensor, params: Sequence[Tensor]) -> None:
    if y.dtype not in DTYPES:
        raise Untranslatable(f"a state of {y.dtype}")
    if y.device.type != "cpu":
        raise Untranslatable(f"a state on {y.device}")
    for param in params:
        if param.dtype != y.dtype:
            raise Untranslatable(f"a parameter of {param.dtype} with a state of {y.dtype}")


def _version(tensor: Tensor) -> int | None:
    """How often it was changed in place; that of inference tensors is not counted."""
    return None if tensor.is_inference() else tensor._version


def _check_unchanged(subject: _Subject, before: Inventory, versions: Sequence[int | None]) -> None:
    """Refuse what changes its own Python state or tensors when it is called."""
    after = subject.inventory()
    if after.key != before.key:
        changed = before.changes(after) or ["its attributes"]
        named = ", ".join(path.removeprefix("[0].") for path in changed[:3])
        raise Untranslatable(f"calling it changes {named}, which a compiled call would not")
    tensors = zip(before.tensors, after.tensors, before.paths, versions, strict=True)
    for tensor, later, path, version in tensors:
        if tensor is not later or _version(tensor) != version:
            raise Untranslatable(f"calling it changes the tensor {path.removeprefix('[0].')}")


def _lower(
    subject: _Subject, traced: Traced, y: Tensor, inventory: Inventory
) -> tuple[Tape, tuple[int | Tensor, ...]]:
    params = subject.params or ()
    places, packed_size = _places(params)
    names, captured = _name_captured(traced, params, inventory)
    places |= {f"tensor{index}": Place("tensor", 0, index) for index in range(len(captured))}
    graph = translate(traced.module, subject.inputs, subject.results, names)
    programs = {"field": Results(graph, ["dy"])}
    arrays: dict[str, Node] = {}
    if subject.params is not None:
        parts = split(graph, subject.bars)
        arrays = parts.kept | parts.operands
        places |= {name: Place("record") for name in parts.kept}
        places |= {name: Place("operand") for name in parts.operands}
        programs |= {
            "pullback": Results(graph, ["dy", "y_bar"]),
            "joint": Results(graph, subject.results),
            "record": Results(parts.record, ["dy", *parts.kept]),
            "reverse": Results(parts.reverse, ["y_bar", *parts.operands], added=subject.bars),
            "gather": Results(parts.gather, [], added=subject.bars),
        }
    # A role that no program has a use for has one element.
    used = {places[name].role for name in (*subject.inputs, *subject.results)}
    size = prod(y.shape)
    sizes: dict[Role, int] = {
        "t": 1,
        "y": size,
        "cotangent": size if "cotangent" in used else 1,
        "params": packed_size,
        "dy": prod(graph.outputs["dy"].shape),
        "y_bar": size if "y_bar" in used else 1,
        "params_bar": packed_size,
    }
    tape = lower(programs, places, sizes, y.dtype, arrays)
    # A tensor that no program needs has no buffer; those that have are in order of use.
    return tape, tuple(captured[buffer.place] for buffer in tape.of_role("tensor"))


def _places(params: Sequence[Tensor]) -> tuple[dict[str, Place], int]:
    """Where inputs and results lie that are no captured tensors, and the length of packed θ."""
    places = {role: Place(role) for role in ("t", "y", "cotangent", "dy", "y_bar")}
    offset = 0
    for index, param in enumerate(params):
        places[f"param{index}"] = Place("params", offset)
        places[f"param_bar{index}"] = Place("params_bar", offset)
        offset += param.numel()
    # SciMLSensitivity wants at least one parameter; a vector of none gets a silent one.
    return places, max(offset, 1)


def _name_captured(
    traced: Traced, params: Sequence[Tensor], inventory: Inventory
) -> tuple[dict[str, str], list[int | Tensor]]:
    """Attribute of the traced module -> name of an input; and the tensors that are not packed."""
    known = {id(tensor): index for index, tensor in enumerate(inventory.tensors)}
    packed = {id(param): index for index, param in enumerate(params)}
    names: dict[str, str] = {}
    captured: list[int | Tensor] = []
    for attribute, tensor in traced.tensors.items():
        if id(tensor) in packed:
            names[attribute] = f"param{packed[id(tensor)]}"
            continue
        if tensor.device.type != "cpu":
            raise Untranslatable(f"a tensor on {tensor.device}")
        names[attribute] = f"tensor{len(captured)}"
        captured.append(known.get(id(tensor), tensor))
    return names, captured
