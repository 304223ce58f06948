"""A function described so that another process knows it again, or not at all.

The inventory's key holds objects that mean nothing to another process: types, code, builtins.
Here they are described by what they are. Also, a look from outside misses code: an import inside
a function, a class that is only named, a patched function of torch's. So the function is called
once while Python tells what code runs, and all of that belongs to the description: the code, what
it names, and the files that it is from. What runs is known before what is kept on disk is
looked for, in each process anew.
"""

from __future__ import annotations

import logging
import opcode
import sys
import types
from collections.abc import Iterator, Mapping
from functools import _lru_cache_wrapper, cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pysemi.compiler.inventory import PLAIN, Same, Walk, looked_up, unwrapped
from pysemi.compiler.observation import Observed
from pysemi.compiler.surroundings import surroundings
from pysemi.compiler.trusted import (
    Unportable,
    found_name,
    is_found,
    is_trusted_file,
    is_trusted_module,
    is_trusted_type,
)

__all__ = ["portrait"]

POINTER = tuple.__itemsize__
"""Bytes of an address."""

UNSEEN = frozenset({"_abc_impl", "_backward_cls"})
"""Class attributes that Python and torch put there, which say nothing of the class."""

_log = logging.getLogger("pysemi")


def portrait(parts: Any, more: Any, seen: Observed) -> str | None:
    """The name of ``parts`` and ``more`` among all that processes may compile.

    Parameters
    ----------
    parts : object
        As for an inventory.
    more : tuple
        What else decides, such as the inventory's key.
    seen : Observed
        What ran.

    Returns
    -------
    str or None
        None where another process could not know them again.
    """
    walk = _Portrayal()
    try:
        walk.visit(parts, "")
        for code, names, enclosed in seen.codes.values():
            walk.ran(code, names, enclosed)
        writing = _Writing(walk.described)
        writing.put((more, tuple(walk.key), surroundings()))
    except Exception as reason:  # odd objects raise what they like
        _log.debug("it cannot be kept on disk: %s: %s", type(reason).__name__, reason)
        return None
    return writing.digest()


class _Portrayal(Walk):
    """Looks further than an inventory does: into classes, modules, and all that was seen to run."""

    def __init__(self) -> None:
        super().__init__()
        self.described: set[int] = set()
        self._codes: set[int] = set()
        self._files: set[str] = set()
        self._modules: set[tuple[str, tuple[str, ...]]] = set()

    def visit(self, x: Any, path: str) -> None:
        kind = type(x)
        if not is_trusted_type(kind):
            self._code_of(kind, path)
        super().visit(x, path)

    def ran(self, code: types.CodeType, names: dict[str, Any], enclosed: tuple[Any, ...]) -> None:
        """Note code that ran, if no function that was visited has it."""
        if id(code) in self._codes:
            return
        if code.co_name == "<module>":  # what it defines is seen where it is used
            self._file(code.co_filename)
            return
        self.key.append("ran")
        self.key.append(code)
        self._note(code)
        self.visit(enclosed, code.co_name)
        self._looked_up(code, names, code.co_name)

    def _tensor(self, x: Tensor, path: str) -> None:
        super()._tensor(x, path)
        self.key.append(x.layout)
        self.key.append(x.stride() if x.layout == torch.strided else ())
        self._more(x, path)

    def _sequence(self, x: Any, path: str) -> None:
        super()._sequence(x, path)
        self._more(x, path)

    def _mapping(self, x: Mapping[Any, Any], path: str) -> None:
        super()._mapping(x, path)
        self._more(x, path)

    def _more(self, x: Any, path: str) -> None:
        """Attributes that somebody gave to what has none by itself."""
        given = getattr(x, "__dict__", None)
        if given:
            self.visit(given, path)

    def _itself(self, x: Any, path: str) -> None:
        super()._itself(x, path)
        if isinstance(x, type):
            if not is_trusted_type(x):
                self._code_of(x, path)
        elif isinstance(x, types.ModuleType):
            self._module_file(x.__name__)
        else:
            self._module_file(x.__module__)

    def _function(self, x: types.FunctionType, path: str) -> None:
        if not is_trusted_file(x.__code__.co_filename, x.__module__):
            self._users_function(x, path)
        elif is_found(x):
            self.key.append(Same(x))
        else:  # made by a function of torch's or Python's, such as a decorator
            self.described.add(id(x))
            self._users_function(x, path)

    def _object(self, x: Any, path: str) -> None:
        kind = type(x)
        if kind is _lru_cache_wrapper:
            self.described.add(id(x.cache_parameters))  # says nothing; an inventory has it
            self.visit(x.__wrapped__, path)
        elif _holds_more(kind):
            self.key.append(Same(x))
        else:
            super()._object(x, path)

    def _globals(self, x: types.FunctionType, path: str) -> None:
        self._note(x.__code__)
        if not is_trusted_file(x.__code__.co_filename, x.__globals__.get("__name__")):
            self._looked_up(x.__code__, x.__globals__, path)

    def _looked_up(self, code: types.CodeType, names: dict[str, Any], path: str) -> None:
        wanted = looked_up(code)
        for name in wanted:
            for value in (names.get(name), *_imported(code, name, names)):
                if value is None:
                    continue
                self.key.append(name)
                if isinstance(value, types.ModuleType):
                    self._module_constants(value, wanted)
                else:
                    self.visit(value, f"{path}:{name}")

    def _module_constants(self, module: types.ModuleType, names: tuple[str, ...]) -> None:
        if is_trusted_module(module.__name__) or (module.__name__, names) in self._modules:
            return
        self._modules.add((module.__name__, names))
        self.key.append(Same(module))
        self._module_file(module.__name__)
        for name in names:
            value = vars(module).get(name)
            if value is None:
                continue
            self.key.append((module.__name__, name))
            if isinstance(value, types.ModuleType):
                self._module_constants(value, names)
            else:
                self.visit(value, f"{module.__name__}.{name}")

    def _code_of(self, kind: type, path: str) -> None:
        for owner in kind.__mro__:
            if id(owner) in self.described or is_trusted_type(owner):
                continue
            self.described.add(id(owner))
            self._kept.append(owner)
            self.key.append(owner)
            self.key.append(owner.__bases__)
            self._module_file(owner.__module__)
            if not is_trusted_type(type(owner)):
                self._code_of(type(owner), path)
            for name, value in vars(owner).items():
                if name in UNSEEN or (_is_dunder(name) and name != "__call__"):
                    continue
                inner = unwrapped(value.func if isinstance(value, cached_property) else value)
                if _is_slot(inner):
                    continue
                self.key.append(name)
                self.visit(inner, f"{path}.{owner.__name__}.{name}")

    def _note(self, code: types.CodeType) -> None:
        self._codes.update(map(id, _nested(code)))
        self._file(code.co_filename)

    def _module_file(self, name: str | None) -> None:
        if name is not None and not is_trusted_module(name):
            file = getattr(sys.modules.get(name), "__file__", None)
            if file is not None:
                self._file(file)

    def _file(self, name: str) -> None:
        """Let a change in the file be noticed: what reads it may do so in ways unseen here."""
        if name in self._files or is_trusted_file(name, None):
            return
        self._files.add(name)
        try:
            content = Path(name).read_bytes()
        except (OSError, ValueError):  # typed in, or made by a program: all that runs is in the key
            return
        self.key.append(("file", blake2b(content).digest()))


class _Writing:
    """Writes a key so that different keys are different texts."""

    def __init__(self, described: set[int]) -> None:
        self._described = described
        self._numbers: dict[int, int] = {}
        self._hash = blake2b(digest_size=20)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def put(self, x: Any) -> None:
        """Each kind of value begins with its own letter, and says how long it is."""
        kind = type(x)
        if isinstance(x, tuple):
            self._text("(" if kind is tuple else "<", str(len(x)))
            if kind is not tuple:
                self.put(kind)
            for each in x:
                self.put(each)
        elif kind is str:
            self._text("s", x)
        elif isinstance(x, type):
            self._type(x)
        elif isinstance(x, types.CodeType):
            self._code(x)
        elif isinstance(x, Same):
            self._same(x.target)
        elif kind in PLAIN:
            self._text(kind.__name__, repr(x))
        elif isinstance(x, PLAIN):  # a member of an enumeration, say
            base: Any = next(base for base in PLAIN if isinstance(x, base))
            self._text("p", base.__repr__(x))
            self.put(kind)
        elif isinstance(x, frozenset):  # a constant of code
            each = sorted(map(self._alone, x))
            self._text("{", str(len(each)))
            self._hash.update(b"".join(each))
        elif x is Ellipsis:
            self._text(".", "")
        else:
            raise Unportable(kind.__name__)

    def _alone(self, x: Any) -> bytes:
        writing = _Writing(self._described)
        writing.put(x)
        return writing._hash.digest()

    def _text(self, letter: str, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self._hash.update(f"{letter}{len(data)}:".encode() + data)

    def _type(self, x: type) -> None:
        """By its name; one that cannot be found by it is one of those that were described."""
        if not self._again(x):
            if id(x) not in self._described and not is_trusted_type(x):
                raise Unportable(x.__qualname__)
            self._text("T", x.__module__)
            self._text("q", x.__qualname__)

    def _again(self, x: Any) -> bool:
        """Write the number of what was written before."""
        number = self._numbers.get(id(x))
        if number is None:
            self._numbers[id(x)] = len(self._numbers)
            return False
        self._text("t", str(number))
        return True

    def _code(self, x: types.CodeType) -> None:
        self._text("c", "")
        self.put(x.co_code)
        counts = (x.co_argcount, x.co_posonlyargcount, x.co_kwonlyargcount, x.co_flags)
        names = (x.co_name, x.co_names, x.co_varnames, x.co_freevars, x.co_cellvars)
        self.put((counts, names, getattr(x, "co_exceptiontable", b"")))
        self._text("k", str(len(x.co_consts)))
        for each in x.co_consts:
            self.put(each)

    def _same(self, x: Any) -> None:
        if isinstance(x, type):
            self._type(x)
        elif isinstance(x, types.ModuleType):
            if sys.modules.get(x.__name__) is not x:
                raise Unportable(x.__name__)
            self._text("M", x.__name__)
        elif x is Ellipsis or x is NotImplemented:
            self._text("S", repr(x))
        elif isinstance(x, slice):
            self._text("l", "")
            self._all_plain((x.start, x.stop, x.step))
        elif isinstance(x, range):
            self._text("r", repr(x))
        elif type(x) in (tuple, frozenset):  # a key of a dictionary
            self._text("u", "")
            self.put(x)
        elif isinstance(x, np.generic) and not x.dtype.hasobject:
            self._text("g", repr(x.dtype))
            self.put(x.tobytes())
        elif isinstance(x, (np.dtype, torch.memory_format)):
            self._text("d", f"{type(x).__name__} {x!r}")
        elif id(x) in self._described:
            if not self._again(x):
                self._text("f", x.__qualname__)
        else:
            module, name = found_name(x)
            self._text("N", module)
            self._text("q", name)

    def _all_plain(self, values: tuple[Any, ...]) -> None:
        if not all(type(value) in PLAIN for value in values):
            raise Unportable("slice")
        self.put(values)


def _holds_more(kind: type) -> bool:
    """Whether objects of a type have room for more than Python can see: a compiled extension's."""
    while kind is not object:
        base = kind.__base__
        assert base is not None  # of object alone
        shown = 2 + len(kind.__dict__.get("__slots__", ()))  # attributes and weak references
        if kind.__basicsize__ - base.__basicsize__ > shown * POINTER:
            return True
        kind = base
    return False


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_slot(x: Any) -> bool:
    """Whether it gets attributes at a place, and knows no more: not a function."""
    return (
        hasattr(type(x), "__get__")
        and not isinstance(x, (types.FunctionType, types.BuiltinFunctionType, type))
        and is_trusted_type(type(x))
    )


def _nested(code: types.CodeType) -> tuple[types.CodeType, ...]:
    found = [code]  # not remembered: equal code may be other code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _nested(constant)
    return tuple(found)


@cache
def _imports(code: types.CodeType) -> bool:
    """Whether the code, or a function written inside it, imports something."""
    return any(opcode.opmap["IMPORT_NAME"] in each.co_code[::2] for each in _nested(code))


def _imported(code: types.CodeType, name: str, names: dict[str, Any]) -> Iterator[types.ModuleType]:
    """Modules that ``name`` may stand for where ``code`` imports it itself."""
    if not _imports(code):
        return
    package = str(names.get("__package__") or "")
    candidates = [name]
    while package:
        candidates += [package, f"{package}.{name}"]
        package = package.rpartition(".")[0]
    for candidate in candidates:
        module = sys.modules.get(candidate)
        if module is not None:
            yield module
