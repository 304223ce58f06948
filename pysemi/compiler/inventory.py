"""What a vector field consists of: its tensors, and the Python state that its code can read.

Two vector fields with equal inventories do the same to their tensors, so one compiled
program serves both; and an inventory that has changed tells that a compiled program is out of date.
Walking must be quick, since it happens before every solve.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache, partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pysemi.compiler.untranslatable import Untranslatable

__all__ = [
    "BOOKKEEPING",
    "PLAIN",
    "Inventory",
    "Same",
    "Walk",
    "is_quiet",
    "looked_up",
    "slots",
    "take_inventory",
    "unwrapped",
]

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout)
"""Values that are their own description."""

MOST_ENTRIES = 20_000
"""Of one inventory: looking through more before each solve would take longer than many a
solve. A closure that holds a data set has more."""

QUIET_PACKAGES = frozenset({"torch", "numpy", "math", "builtins", "functools", "typing", "scipy"})
"""Packages whose own functions and classes are taken to be constant."""


@dataclass(frozen=True)
class Inventory:
    """A vector field, taken apart.

    Attributes
    ----------
    key : tuple
        Describes everything but the tensors' values and identities; hashable. Two
        vector fields of equal keys run the same code on tensors of the same kinds.
    tensors : tuple of Tensor
        Every tensor found, once each, in an order that equal keys share.
    paths : tuple of str
        Where each tensor was found.
    state : tuple
        The parts of ``key`` that are plain values, with their paths: to say what changed.
    """

    key: tuple[Any, ...]
    tensors: tuple[Tensor, ...]
    paths: tuple[str, ...]
    state: tuple[tuple[str, Any], ...]

    def changes(self, later: Inventory) -> list[str]:
        """Paths of plain values that differ between this inventory and a later one."""
        before, after = dict(self.state), dict(later.state)
        return [path for path in {**before, **after} if before.get(path) != after.get(path)]


def take_inventory(field: Any) -> Inventory:
    """Take the callable ``field`` apart.

    Raises
    ------
    Untranslatable
        If it holds too much to be looked through before each solve.

    Notes
    -----
    Followed are modules, functions (with closures, defaults and the globals that their
    code names), bound methods, partials, containers and the attributes of other objects.
    """
    walk = Walk()
    walk.visit(field, "")
    return Inventory(tuple(walk.key), tuple(walk.tensors), tuple(walk.paths), tuple(walk.state))


class Same:
    """Stands for an object that can only be compared by identity."""

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        self.target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.target is self.target

    def __hash__(self) -> int:
        return id(self.target)


class Walk:
    """One look through a vector field; what it finds is in ``key``, ``tensors`` and ``paths``."""

    def __init__(self) -> None:
        self.key: list[Any] = []
        self.tensors: list[Tensor] = []
        self.paths: list[str] = []
        self.state: list[tuple[str, Any]] = []
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def visit(self, x: Any, path: str) -> None:
        """Note ``x``, and follow what it holds."""
        kind = type(x)
        if kind in _PLAIN_TYPES:
            self._plain(x, path)
            return
        if len(self.key) > MOST_ENTRIES:
            raise Untranslatable(
                f"it holds more than {MOST_ENTRIES:,} Python values (by way of {path}), which "
                "would have to be watched"
            )
        known = self._seen.get(id(x))
        if known is not None:
            self.key.append(("again", known))
            return
        self._seen[id(x)] = len(self._seen)
        self._kept.append(x)
        getattr(self, _way_to_visit(kind))(x, path)  # type: ignore[arg-type]

    def _plain(self, x: Any, path: str) -> None:
        # repr tells 0.0 from -0.0 and from 0, and makes NaN equal to itself.
        value = (type(x), repr(x)) if isinstance(x, (float, complex)) else (type(x), x)
        self.key.append(value)
        self.state.append((path, value))

    def _tensor(self, x: Tensor, path: str) -> None:
        self.key.append(("tensor", type(x), tuple(x.shape), x.dtype, x.device, x.requires_grad))
        self.tensors.append(x)
        self.paths.append(path)

    def _array(self, x: np.ndarray[Any, Any], path: str) -> None:
        if x.dtype == object:
            self._object(x, path)
            return
        digest = blake2b(np.ascontiguousarray(x).tobytes()).digest()
        self._plain((x.shape, str(x.dtype), digest), path)

    def _method(self, x: types.MethodType, path: str) -> None:
        self.key.append("method")
        self.visit(x.__func__, path)
        self.visit(x.__self__, f"{path}.__self__")

    def _partial(self, x: partial[Any], path: str) -> None:
        self.key.append("partial")
        self.visit(x.func, path)
        self.visit(x.args, f"{path}.args")
        self.visit(x.keywords, f"{path}.keywords")

    def _itself(self, x: Any, _path: str) -> None:
        self.key.append(Same(x))

    def _module(self, x: nn.Module, path: str) -> None:
        self.key.append(type(x))
        self._code_of(type(x), path)
        for name, value in vars(x).items():
            # Most of a module's own bookkeeping is empty, and says nothing then.
            if name in _UNREAD or (name in BOOKKEEPING and not value):
                continue
            self.key.append(name)
            inner = path if name in ("_parameters", "_buffers", "_modules") else f"{path}.{name}"
            self.visit(value, inner)

    def _sequence(self, x: Any, path: str) -> None:
        self.key.append((type(x), len(x)))
        items = sorted(x, key=repr) if isinstance(x, (set, frozenset)) else x
        for index, item in enumerate(items):
            self.visit(item, f"{path}[{index}]")

    def _mapping(self, x: Mapping[Any, Any], path: str) -> None:
        self.key.append((type(x), len(x)))
        for name, value in x.items():
            self.key.append(name if isinstance(name, PLAIN) else Same(name))
            self.visit(value, f"{path}.{name}" if isinstance(name, str) else f"{path}[{name!r}]")

    def _function(self, x: types.FunctionType, path: str) -> None:
        if is_quiet(x.__module__):
            # Many of torch's share the code of a decorator, and differ in what it encloses.
            self.key.append(Same(x) if x.__closure__ else x.__code__)
        else:
            self._users_function(x, path)

    def _users_function(self, x: types.FunctionType, path: str) -> None:
        self.key.append(x.__code__)
        for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            self.key.append(name)
            self.visit(value, f"{path}<{name}>")
        for value in (x.__defaults__, x.__kwdefaults__):
            if value:
                self.visit(value, f"{path}.__defaults__")
        if vars(x):
            self.visit(vars(x), path)
        self._globals(x, path)

    def _globals(self, x: types.FunctionType, path: str) -> None:
        names = looked_up(x.__code__)
        for name in names:
            if name not in x.__globals__:
                continue
            value = x.__globals__[name]
            self.key.append(name)
            if isinstance(value, types.ModuleType):
                self._module_constants(value, names)
            else:
                self.visit(value, f"{path}:{name}")

    def _module_constants(self, module: types.ModuleType, names: tuple[str, ...]) -> None:
        """Values of ``module`` that the code may read as ``module.name``."""
        if is_quiet(module.__name__):
            return
        for name in names:
            value = vars(module).get(name)
            if value is not None and not isinstance(value, types.ModuleType):
                self.key.append((module.__name__, name))
                self.visit(value, f"{module.__name__}.{name}")

    def _object(self, x: Any, path: str) -> None:
        self.key.append(type(x))
        self._code_of(type(x), path)
        found = False
        if is_dataclass(x):
            for item in fields(x):
                self.key.append(item.name)
                self.visit(getattr(x, item.name, None), f"{path}.{item.name}")
            found = True
        elif hasattr(x, "__dict__"):
            for name, value in vars(x).items():
                self.key.append(name)
                self.visit(value, f"{path}.{name}")
            found = True
        for name in slots(type(x)):  # type: ignore[arg-type]
            if hasattr(x, name):
                self.key.append(name)
                self.visit(getattr(x, name), f"{path}.{name}")
                found = True
        if not found:  # nothing can be seen inside
            self.key.append(Same(x))

    def _code_of(self, kind: type, path: str) -> None:
        """The user's own classes: their methods' code, what that names, and class attributes."""
        for owner in kind.__mro__:
            if is_quiet(owner.__module__) or id(owner) in self._seen:
                continue
            self._seen[id(owner)] = len(self._seen)
            self._kept.append(owner)
            for name, value in vars(owner).items():
                if name.startswith("__") and name.endswith("__") and name != "__call__":
                    continue
                inner = unwrapped(value)
                if isinstance(inner, (types.FunctionType, Tensor, list, tuple, dict, *PLAIN)):
                    self.key.append(name)
                    self.visit(inner, f"{path}.{owner.__name__}.{name}")


_PLAIN_TYPES = frozenset(PLAIN)

_WAYS: tuple[tuple[Any, str], ...] = (
    (Tensor, "_tensor"),
    (nn.Module, "_module"),
    ((list, tuple, set, frozenset, deque), "_sequence"),
    (Mapping, "_mapping"),
    (types.FunctionType, "_function"),
    (types.MethodType, "_method"),
    (partial, "_partial"),
    (np.ndarray, "_array"),
    ((type, types.ModuleType, types.BuiltinFunctionType), "_itself"),
    (PLAIN, "_plain"),  # subclasses of int and the like
)
"""Types, and the methods of :class:`Walk` for what is of them."""


@lru_cache(maxsize=4096)
def _way_to_visit(kind: Hashable) -> str:
    return next((way for kinds, way in _WAYS if issubclass(kind, kinds)), "_object")  # type: ignore[arg-type]


_UNREAD = frozenset({"_version", "_is_full_backward_hook", "_non_persistent_buffers_set"})
"""Attributes of every module that its forward does not depend on."""

BOOKKEEPING = frozenset(
    name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set))
)
"""Attributes of every module that say nothing where they are empty."""


@cache
def is_quiet(module: str | None) -> bool:
    """Whether what is defined in ``module`` is taken to be constant."""
    return module is None or module.partition(".")[0] in QUIET_PACKAGES


@cache
def looked_up(code: types.CodeType) -> tuple[str, ...]:
    """Names that ``code`` and the functions written inside it look up."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += looked_up(constant)
    return tuple(dict.fromkeys(names))


@cache
def slots(kind: Hashable) -> tuple[str, ...]:
    """Names of the slots that objects of type ``kind`` have."""
    found: list[str] = []
    for owner in kind.__mro__:  # type: ignore[attr-defined]
        slots = owner.__dict__.get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


def unwrapped(value: Any) -> Any:
    """The function inside of a class attribute that holds one."""
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    return value


def describe_callable(field: Callable[..., Any]) -> str:
    """A short name for messages."""
    return getattr(field, "__qualname__", type(field).__qualname__)
