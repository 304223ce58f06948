"""Why a function cannot be compiled."""

from __future__ import annotations

__all__ = ["Untranslatable"]


class Untranslatable(Exception):
    """A function, or one operator in it, that the compiler does not translate.

    It never reaches a user: the function is run another way, and the reason is told.

    Attributes
    ----------
    what : str
        The operator or the line, in words that fit after "cannot be compiled: ".
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
