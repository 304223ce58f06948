"""From a vector field to its tape: traced once for each structure, used by all that share it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.inventory import Inventory, take_inventory
from pysemi.compiler.lower import Place, lower
from pysemi.compiler.tape import Role, Tape
from pysemi.compiler.trace import FlatField, Traced, trace_field, trace_joint
from pysemi.compiler.translate import translate
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.state import StateLayout, check_derivative

__all__ = ["Compilation", "compile_field", "flat_field"]

DTYPES = (torch.float32, torch.float64)
"""Of the states that can be compiled."""

KEPT = 256
"""Compilations remembered; the least recently used goes first."""


@dataclass(frozen=True)
class Compilation:
    """What all vector fields of one structure share.

    Attributes
    ----------
    tape : Tape
    sources : tuple of (int or Tensor)
        For each of the tape's buffers of role "tensor": which of the inventory's
        tensors it holds, or the tensor itself, where the walk did not find it.
    param_sources : tuple of int
        For each parameter, its place in the inventory.
    seconds : float
        Spent on tracing and lowering.
    """

    tape: Tape
    sources: tuple[int | Tensor, ...]
    param_sources: tuple[int, ...]
    seconds: float

    @property
    def is_shareable(self) -> bool:
        """Whether it serves other vector fields of the structure too."""
        return all(isinstance(source, int) for source in self.sources)

    def tensors(self, inventory: Inventory) -> list[Tensor]:
        """The tensors that a vector field's tape reads, in the order of the buffers."""
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
    inventory = take_inventory((func, tuple(params or ())))
    key: tuple[Any, ...] = (
        inventory.key,
        layout,
        y.dtype,
        tuple(y.shape),
        y.device,
        params is None,
    )
    with _lock:
        for candidate in (key, (key, id(func))):
            found = _known.get(candidate)
            if found is not None:
                _known.move_to_end(candidate)
                if isinstance(found, Untranslatable):
                    raise found
                return found, inventory
        try:
            made = _compile(func, layout, t, y, params, inventory)
        except Untranslatable as reason:
            _remember(key, reason)
            raise
        # What only this object is known to need holds for this object alone; the entry's
        # own reference to it keeps its id from being used again.
        _remember(key if made.is_shareable else (key, id(func)), made)
        return made, inventory


def forget_compilations() -> None:
    """Drop everything remembered, for tests of what happens the first time."""
    with _lock:
        _known.clear()


def _remember(key: Any, made: Compilation | Untranslatable) -> None:
    _known[key] = made
    while len(_known) > KEPT:
        _known.popitem(last=False)


def _compile(
    func: Callable[[Tensor, Any], Any],
    layout: StateLayout,
    t: Tensor,
    y: Tensor,
    params: Sequence[Tensor] | None,
    inventory: Inventory,
) -> Compilation:
    began = time.perf_counter()
    _check(y, params or ())
    field = flat_field(func, layout)
    versions = [tensor._version for tensor in inventory.tensors]
    t = t.detach().to(y.dtype)
    try:
        if params is None:
            traced = trace_field(field, t, y)
        else:
            traced = trace_joint(field, t, y, torch.ones_like(y), params)
    except Untranslatable:
        _check_unchanged(func, params, inventory, versions)  # names more than an operator
        raise
    _check_unchanged(func, params, inventory, versions)
    tape, sources = _lower(traced, y, params, inventory)
    places = {id(tensor): index for index, tensor in enumerate(inventory.tensors)}
    param_sources = tuple(places[id(param)] for param in params or ())
    return Compilation(tape, sources, param_sources, time.perf_counter() - began)


def _check(y: Tensor, params: Sequence[Tensor]) -> None:
    if y.dtype not in DTYPES:
        raise Untranslatable(f"a state of {y.dtype}")
    if y.device.type != "cpu":
        raise Untranslatable(f"a state on {y.device}")
    for param in params:
        if param.dtype != y.dtype:
            raise Untranslatable(f"a parameter of {param.dtype} with a state of {y.dtype}")


def _check_unchanged(
    func: Any, params: Sequence[Tensor] | None, before: Inventory, versions: Sequence[int]
) -> None:
    """Refuse a field that changes its own Python state or tensors when it is called."""
    after = take_inventory((func, tuple(params or ())))
    if after.key != before.key:
        changed = before.changes(after) or ["its attributes"]
        named = ", ".join(path.removeprefix("[0].") for path in changed[:3])
        raise Untranslatable(f"calling it changes {named}, which a compiled call would not")
    tensors = zip(before.tensors, after.tensors, before.paths, versions, strict=True)
    for tensor, later, path, version in tensors:
        if tensor is not later or tensor._version != version:
            raise Untranslatable(f"calling it changes the tensor {path.removeprefix('[0].')}")


def _lower(
    traced: Traced, y: Tensor, params: Sequence[Tensor] | None, inventory: Inventory
) -> tuple[Tape, tuple[int | Tensor, ...]]:
    known = {id(tensor): index for index, tensor in enumerate(inventory.tensors)}
    packed = {id(param): index for index, param in enumerate(params or ())}
    places = {role: Place(role) for role in ("t", "y", "cotangent", "dy", "y_bar")}
    offset = 0
    for index, param in enumerate(params or ()):
        places[f"param{index}"] = Place("params", offset)
        places[f"param_bar{index}"] = Place("params_bar", offset)
        offset += param.numel()
    names: dict[str, str] = {}
    captured: list[int | Tensor] = []
    for attribute, tensor in traced.tensors.items():
        if id(tensor) in packed:
            names[attribute] = f"param{packed[id(tensor)]}"
            continue
        if tensor.device.type != "cpu":
            raise Untranslatable(f"a tensor on {tensor.device}")
        names[attribute] = f"tensor{len(captured)}"
        places[names[attribute]] = Place("tensor", 0, len(captured))
        captured.append(known.get(id(tensor), tensor))
    bars = [f"param_bar{index}" for index in range(len(params or ()))]
    if params is None:
        inputs, outputs = ["t", "y"], ["dy"]
        programs = {"field": ["dy"]}
    else:
        inputs, outputs = ["t", "y", "cotangent"], ["dy", "y_bar", *bars]
        programs = {"field": ["dy"], "pullback": ["dy", "y_bar"], "joint": outputs}
    graph = translate(traced.module, inputs, outputs, names)
    size = prod(y.shape)
    # SciMLSensitivity wants at least one parameter; a vector of none gets a silent one.
    packed_size = max(offset, 1)
    sizes: dict[Role, int] = {
        "t": 1,
        "y": size,
        "cotangent": size,
        "params": packed_size,
        "dy": size,
        "y_bar": size,
        "params_bar": packed_size,
    }
    tape = lower(graph, programs, places, sizes, y.dtype)
    # A tensor that no program needs has no buffer; those that have are in order of use.
    return tape, tuple(captured[buffer.place] for buffer in tape.of_role("tensor"))
