"""Code that is the same as long as its version is: torch's, NumPy's, SciPy's and Python's own."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

import pysemi

__all__ = [
    "Unportable",
    "found_name",
    "is_found",
    "is_python_s_own",
    "is_trusted_file",
    "is_trusted_module",
    "is_trusted_type",
]

MADE_AT_RUN_TIME = 1 << 9
"""Flag of types that a class statement makes, or a module when it is imported."""


class Unportable(Exception):
    """Something that another process could not know again."""


@cache
def _python_s_folders() -> tuple[str, ...]:
    """Of the standard library; by the name that its modules were loaded by, too."""
    found = (
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        Path(os.__file__).parent,
    )
    return tuple(_with_slash(folder) for folder in found)


@cache
def _trusted_folders() -> tuple[str, ...]:
    """Of torch, NumPy, SciPy and the standard library; and of the compiler, which has a digest."""
    files = [torch.__file__, np.__file__, __file__]
    scipy = sys.modules.get("scipy")
    if scipy is not None and scipy.__file__ is not None:
        files.append(scipy.__file__)
    return *(_with_slash(Path(file).parent) for file in files), *_python_s_folders()


def _with_slash(folder: str | Path) -> str:
    return str(folder).replace("\\", "/").rstrip("/") + "/"


def _lies_in(file: str, folders: tuple[str, ...]) -> bool:
    """Whether a file is of one of the folders; those of other packages may lie below Python's."""
    return any(
        file.startswith(folder)
        and not file[len(folder) :].startswith(("site-packages/", "dist-packages/"))
        for folder in folders
    )


@cache
def is_python_s_own(file: str) -> bool:
    """Whether a file is of the standard library."""
    return file.startswith("<frozen ") or _lies_in(file.replace("\\", "/"), _python_s_folders())


@cache
def is_trusted_file(name: str, module: str | None) -> bool:
    """Whether code of the file ``name`` is; that of no file is as trusted as its module."""
    if name.startswith("<frozen "):
        return True
    name = name.replace("\\", "/")
    if name.startswith("<"):
        return module is not None and is_trusted_module(module)
    return name == _STATE or _lies_in(name, _trusted_folders())


_STATE = str(Path(pysemi.__file__).parent / "state.py").replace("\\", "/")


@cache
def is_trusted_module(name: str) -> bool:
    """Whether the module of that name is one of these."""
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if file is not None:
        return is_trusted_file(file, None)
    return (
        name in sys.builtin_module_names
        or name.partition(".")[0] in ("torch", "numpy")  # made by their C++ code
        or getattr(getattr(module, "__spec__", None), "origin", None) == "frozen"
    )


def is_trusted_type(kind: type) -> bool:
    """Whether a type is of one of these modules, and can be found there."""
    known = _trusted_types.get(kind)
    if known is None:
        # Python has types of its own that no module shows, such as that of None.
        named = not kind.__flags__ & MADE_AT_RUN_TIME or is_found(kind)
        known = named and is_trusted_module(kind.__module__)
        _trusted_types[kind] = known
    return known


_trusted_types: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def is_found(x: Any) -> bool:
    """Whether :func:`found_name` finds it."""
    try:
        found_name(x)
    except Unportable:
        return False
    return True


def found_name(x: Any) -> tuple[str, str]:
    """Where a trusted object is found; whoever finds it there has the same one."""
    module, name = getattr(x, "__module__", None), getattr(x, "__qualname__", None)
    candidates: list[tuple[str | None, str | None]] = [(module, name)]
    own = getattr(x, "__name__", None)
    owner = getattr(x, "__objclass__", None) or getattr(x, "__self__", None)
    if isinstance(owner, type):
        candidates.append((owner.__module__, f"{owner.__qualname__}.{own}"))
    candidates += [(module, own), ("builtins", name), ("torch", own), ("numpy", own)]
    for place, path in candidates:
        if not isinstance(place, str) or not isinstance(path, str) or not is_trusted_module(place):
            continue
        first, _, rest = path.partition(".")
        found = vars(sys.modules[place]).get(first)
        for step in rest.split(".") if rest else ():
            found = getattr(found, step, None)
        if found is x:
            return place, path
    raise Unportable(repr(x))
