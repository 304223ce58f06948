"""Whether what an inventory was read from is still as it was.

To read it again takes longer than many a small solve. Here everything mutable that was read is
held beside what was in it, and compared by identity, in loops that are not Python's.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import repeat
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor, nn

from pysemi.compiler.inventory import BOOKKEEPING, Walk, is_quiet, looked_up, slots
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["Watch", "watch"]

_ABSENT = object()


class Watch:
    """What was read, and what it held then; :func:`watch` makes it.

    Notes
    -----
    An object that holds what it held, by identity, in the same order, leads to the same
    inventory. The other way round need not be: a number that was replaced by an equal one counts
    as a change.
    """

    def __init__(self) -> None:
        # The root stands in these as None, for it is not to live longer than others let it.
        self.objects: list[tuple[Any, type, Any, list[str], tuple[Any, ...]]] = []
        self.functions: list[tuple[Any, Any, Any, Any]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.mappings: list[tuple[Mapping[Any, Any], list[Any], tuple[Any, ...]]] = []
        self.sequences: list[tuple[Sequence[Any], tuple[Any, ...]]] = []
        self.lookups: list[tuple[Mapping[str, Any], tuple[str, ...], list[Any]]] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.classes: dict[type, tuple[type, ...]] = {}
        self.empty: list[Any] = []
        self.tensors: list[tuple[Tensor, Any, Any, Any, bool]] = []

    def holds(self, root: Any) -> bool:
        """Whether nothing that was read has changed.

        Parameters
        ----------
        root : object
            As it was given to :func:`watch`.
        """
        if any(self.empty):
            return False
        for x, shape, dtype, device, requires_grad in self.tensors:
            if (
                x.requires_grad is not requires_grad
                or x.dtype is not dtype
                or x.shape != shape
                or x.device != device
            ):
                return False
        for x, kind, attributes, names, values in self.objects:
            held = root if x is None else x
            if type(held) is not kind:
                return False
            if attributes is not None and (
                held.__dict__ is not attributes
                or [*attributes] != names
                or not all(map(is_, attributes.values(), values))
            ):
                return False
        for mapping, names, values in self.mappings:
            if [*mapping] != names or not all(map(is_, mapping.values(), values)):
                return False
        return self._rest_holds(root)

    def _rest_holds(self, root: Any) -> bool:
        for namespace, looked_for, found in self.lookups:
            if not all(map(is_, map(namespace.get, looked_for, repeat(_ABSENT)), found)):
                return False
        for x, code, defaults, kwdefaults in self.functions:
            held = root if x is None else x
            if (
                held.__code__ is not code
                or held.__defaults__ is not defaults
                or held.__kwdefaults__ is not kwdefaults
            ):
                return False
        for cell, value in self.cells:
            try:
                if cell.cell_contents is not value:
                    return False
            except ValueError:  # it was emptied
                return False
        for sequence, items in self.sequences:
            if len(sequence) != len(items) or not all(map(is_, sequence, items)):
                return False
        for kind, mro in self.classes.items():
            if kind.__mro__ is not mro:
                return False
        for x, name, value in self.attributes:
            if getattr(root if x is None else x, name, _ABSENT) is not value:
                return False
        return True


def watch(parts: Any, root: Any) -> Watch | None:
    """Watch all that :func:`~pysemi.compiler.inventory.take_inventory` reads of ``parts``.

    Parameters
    ----------
    parts : object
    root : object
        Of ``parts``, the object that the watch belongs to, which it does not keep alive.

    Returns
    -------
    Watch or None
        None where it cannot tell, or would keep ``root`` alive, or results of autograd.
    """
    reading = _Reading(root)
    try:
        reading.visit(parts, "")
    except Untranslatable:
        return None
    return reading.watch if reading.is_complete else None


class _Reading(Walk):
    """A walk that notes what it reads."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self.watch = Watch()
        self.is_complete = True
        self._root = root
        self._has_met_root = False

    def visit(self, x: Any, path: str) -> None:
        if x is self._root:
            # From inside of itself: what is held would keep it alive.
            self.is_complete &= not self._has_met_root
            self._has_met_root = True
        super().visit(x, path)

    def _held(self, values: Any) -> tuple[Any, ...]:
        held = tuple(values)
        self.is_complete &= all(value is not self._root for value in held)
        return held

    def _or_root(self, x: Any) -> Any:
        return None if x is self._root else x

    def _tensor(self, x: Tensor, path: str) -> None:
        self.is_complete &= x.is_leaf
        self.watch.tensors.append((x, x.shape, x.dtype, x.device, x.requires_grad))
        super()._tensor(x, path)

    def _array(self, x: np.ndarray[Any, Any], path: str) -> None:
        self.is_complete = False  # to know its values is to read them all
        super()._array(x, path)

    def _module(self, x: nn.Module, path: str) -> None:
        self._note_object(x)
        self.watch.empty += [
            value for name, value in vars(x).items() if name in BOOKKEEPING and not value
        ]
        super()._module(x, path)

    def _sequence(self, x: Any, path: str) -> None:
        if isinstance(x, set):
            self.is_complete = False
        elif not isinstance(x, (tuple, frozenset)):
            self.watch.sequences.append((x, self._held(x)))
        super()._sequence(x, path)

    def _mapping(self, x: Mapping[Any, Any], path: str) -> None:
        self._note_mapping(x)
        super()._mapping(x, path)

    def _function(self, x: types.FunctionType, path: str) -> None:
        self.watch.functions.append(
            (self._or_root(x), x.__code__, x.__defaults__, x.__kwdefaults__)
        )
        super()._function(x, path)

    def _users_function(self, x: types.FunctionType, path: str) -> None:
        for cell in x.__closure__ or ():
            try:
                self.watch.cells.append((cell, *self._held([cell.cell_contents])))
            except ValueError:  # not assigned yet
                self.is_complete = False
        if vars(x):
            self._note_object(x)
        else:
            self.watch.empty.append(vars(x))
        super()._users_function(x, path)

    def _globals(self, x: types.FunctionType, path: str) -> None:
        self._note_lookups(x.__globals__, looked_up(x.__code__))
        super()._globals(x, path)

    def _module_constants(self, module: types.ModuleType, names: tuple[str, ...]) -> None:
        if not is_quiet(module.__name__):
            self._note_lookups(vars(module), names)
        super()._module_constants(module, names)

    def _object(self, x: Any, path: str) -> None:
        self._note_object(x)
        read = [item.name for item in fields(x)] if is_dataclass(x) else []
        for name in (*read, *slots(type(x))):  # type: ignore[arg-type]
            (value,) = self._held([getattr(x, name, _ABSENT)])
            self.watch.attributes.append((self._or_root(x), name, value))
        super()._object(x, path)

    def _code_of(self, kind: type, path: str) -> None:
        self.watch.classes[kind] = kind.__mro__
        for owner in kind.__mro__:
            if not is_quiet(owner.__module__) and id(owner) not in self._seen:
                self._note_mapping(vars(owner))
        super()._code_of(kind, path)

    def _note_object(self, x: Any) -> None:
        attributes = getattr(x, "__dict__", None)
        names = [] if attributes is None else [*attributes]
        values = () if attributes is None else self._held(attributes.values())
        self.watch.objects.append((self._or_root(x), type(x), attributes, names, values))

    def _note_mapping(self, x: Mapping[Any, Any]) -> None:
        self.watch.mappings.append((x, [*x], self._held(x.values())))

    def _note_lookups(self, namespace: Mapping[str, Any], names: tuple[str, ...]) -> None:
        found = [namespace.get(name, _ABSENT) for name in names]
        self.watch.lookups.append((namespace, names, list(self._held(found))))
