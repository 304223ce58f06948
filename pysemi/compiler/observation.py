"""What runs when a function is called: Python tells of each call, as to a profiler."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pysemi.compiler.trusted import is_python_s_own, is_trusted_file

__all__ = ["Observed", "observe"]

IMPURE = frozenset(
    {
        *("_datetime", "_io", "_random", "datetime", "glob", "io", "nt", "os", "pathlib", "posix"),
        *("random", "secrets", "shutil", "socket", "subprocess", "tempfile", "time", "uuid"),
    }
)
"""Modules of the standard library whose functions tell what may be different the next time."""

IMPURE_BUILTINS = frozenset({id, hash, input, open})

IMPORTLIB = "<frozen importlib._bootstrap>"


@dataclass
class Observed:
    """What ran during a call.

    Attributes
    ----------
    codes : dict
        By identity, each with the globals it ran with, and what it encloses; but not what is
        trusted to be the same as long as its version is.
    is_repeatable : bool
        Whether nothing was asked for that may be different in another process.
    """

    codes: dict[int, tuple[types.CodeType, dict[str, Any], tuple[Any, ...]]] = field(
        default_factory=dict
    )
    is_repeatable: bool = True
    _importing: int = 0

    def note(self, frame: types.FrameType, event: str, argument: Any) -> None:
        """Called by Python at each call, also of C functions."""
        code = frame.f_code
        if code.co_name == "_find_and_load" and code.co_filename == IMPORTLIB:
            self._importing += {"call": 1, "return": -1}.get(event, 0)
        elif self._importing:
            pass  # a module that runs for the first time; later, its values will be seen
        elif event == "call":
            if id(code) in self.codes:
                return
            module = frame.f_globals.get("__name__")
            if not is_trusted_file(code.co_filename, module):
                enclosed: tuple[Any, ...] = ()
                if code.co_freevars:
                    held = frame.f_locals
                    enclosed = tuple(held.get(name) for name in code.co_freevars)
                self.codes[id(code)] = code, frame.f_globals, enclosed
            elif _is_impure(module) and self._is_for_user(frame):
                self.is_repeatable = False
        elif event == "c_call" and (
            argument is open or (_is_impure_call(argument) and self._is_for_user(frame))
        ):
            self.is_repeatable = False

    def _is_for_user(self, frame: types.FrameType | None) -> bool:
        """Whether what was observed asked for a call, if need be by way of Python's own code."""
        while frame is not None and id(frame.f_code) not in self.codes:
            if not is_python_s_own(frame.f_code.co_filename):
                return False
            frame = frame.f_back
        return frame is not None


def _is_impure(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in IMPURE


def _is_impure_call(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, types.ModuleType) and owner.__name__ == "builtins":
        return function in IMPURE_BUILTINS
    module = getattr(function, "__module__", None)
    if module is None:
        kind = owner if isinstance(owner, type) else type(owner)
        module = kind.__module__
    return _is_impure(module)


def observe(call: Callable[[], None]) -> Observed | None:
    """Make a call, and return what ran; None where that cannot be known, or may not be repeated.

    Random numbers are drawn as if there had been no call.
    """
    if sys.getprofile() is not None or not _is_usual():
        return None
    seen = Observed()
    state = torch.get_rng_state()
    try:
        sys.setprofile(seen.note)
        try:
            call()
        finally:
            sys.setprofile(None)
    except Exception:  # whoever makes the call in earnest says so
        return None
    finally:
        torch.set_rng_state(state)
    return seen if seen.is_repeatable else None


def _is_usual() -> bool:
    """Whether nothing stands between a function and torch that changes what is recorded."""
    return not (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )
