"""Compiled or by callback: which way Julia gets at a function of Python's, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import BridgeWarning, CompileError
from pysemi.warn import warn_caller

__all__ = ["BRIDGES", "by_bridge", "forget_warnings"]

T = TypeVar("T")

BRIDGES = ("auto", "compiled", "callback")

_warned: set[str] = set()


def by_bridge(
    bridge: str,
    name: str,
    consequence: str,
    compiled: Callable[[], T],
    callback: Callable[[], T],
) -> T:
    """Prepare a function the way that ``bridge`` asks for.

    Parameters
    ----------
    bridge : {"auto", "compiled", "callback"}
    name : str
        Of the function, for messages.
    consequence : str
        What it means to run by callback, as a sentence; said once for each reason.
    compiled, callback : callable
        Prepare it; ``compiled`` raises Untranslatable where that cannot be.

    Raises
    ------
    CompileError
        If it cannot be compiled and nothing else will do.
    """
    if bridge != "callback":
        try:
            return compiled()
        except Untranslatable as reason:
            text = f"{name} cannot be compiled: {reason.what}"
            if bridge == "compiled":
                raise CompileError(text) from reason
            _warn_once(text, consequence)
    return callback()


def forget_warnings() -> None:
    """Let each warning be given again, for tests of what is said the first time."""
    _warned.clear()


def _warn_once(text: str, consequence: str) -> None:
    if text in _warned:
        return
    _warned.add(text)
    warn_caller(f"{text}. {consequence}", BridgeWarning)
