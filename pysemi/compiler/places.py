"""Where in the user's code an operator was recorded: in which module, on which line."""

from __future__ import annotations

import linecache
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback as fx_traceback
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

__all__ = ["Place", "Places", "place_of"]

KEY = "nn_module_stack"
"""Of a node's metadata: what torch copies from graph to graph."""


@dataclass(frozen=True)
class Place:
    """Where an operator was called; empty where it is not known.

    Attributes
    ----------
    module : str
        Type of the module whose forward was running.
    path : str
        How that module is reached from the outermost, such as ``Field.net.1``.
    line : str
        File, number and text of the innermost line that is neither torch's nor the compiler's.
    """

    module: str = ""
    path: str = ""
    line: str = ""

    def __str__(self) -> str:
        where = f", in {self.path}" if self.path else ""
        return f"{where} ({self.line})" if self.line else where


def place_of(node: fx.Node) -> Place:
    """What :class:`Places` noted of a node."""
    found = node.meta.get(KEY)
    return found if isinstance(found, Place) else Place()


class Places(TorchFunctionMode):
    """Marks what is recorded while it is entered, under ``fx_traceback.preserve_node_meta``."""

    def __init__(self) -> None:
        super().__init__()
        self._modules: list[tuple[nn.Module, str]] = []
        self._line = ""
        self._hooks = ExitStack()
        # Torch calls hooks for the modules of every thread.
        self._thread = threading.get_ident()

    def __enter__(self) -> Any:
        self._hooks.enter_context(register_module_forward_pre_hook(self._enter))
        self._hooks.enter_context(register_module_forward_hook(self._leave))
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._hooks.close()
        fx_traceback.current_meta.pop(KEY, None)

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        line = _users_line()
        # What autograd records below has no line of its own, whoever called it.
        if line is not None or func is torch.autograd.grad:
            self._line = line or ""
            self._mark()
        return func(*args, **(kwargs or {}))

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        name = type(module).__name__
        if self._modules:
            outer, path = self._modules[-1]
            inner = next((key for key, x in outer.named_modules() if x is module), f"<{name}>")
            name = f"{path}.{inner}" if inner else path
        self._modules.append((module, name))
        self._mark()

    def _leave(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        if threading.get_ident() == self._thread:
            self._modules.pop()
            self._mark()

    def _mark(self) -> None:
        if self._modules:
            module, path = self._modules[-1]
            place = Place(type(module).__name__, path, self._line)
        else:
            place = Place(line=self._line)
        fx_traceback.current_meta[KEY] = place


def _users_line() -> str | None:
    """The innermost line of the vector field that is running, if one is; for a mode to call."""
    frame = sys._getframe(1)  # __torch_function__
    while frame.f_back is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("pysemi.compiler."):
            # Modes stand between torch and its caller; all else here stands before the field.
            if frame.f_code.co_name != "__torch_function__":
                return None
        elif name.partition(".")[0] not in ("torch", "contextlib", "functools"):
            file, number = frame.f_code.co_filename, frame.f_lineno
            return f"{file}:{number}: {linecache.getline(file, number).strip()}"
        frame = frame.f_back
    return None
