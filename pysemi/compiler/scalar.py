"""What a pointwise kernel does to each element: a short straight-line program.

The statements are written in the part of Julia's syntax that Python shares (calls and
arithmetic), so that one text is compiled by Julia, printed in listings, and evaluated on
torch tensors by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pysemi.compiler.graph import Literal

__all__ = ["JULIA_TYPES", "Program", "Reference", "julia_literal"]

JULIA_TYPES = {
    torch.float32: "Float32",
    torch.float64: "Float64",
    torch.int64: "Int64",
    torch.int32: "Int32",
    torch.int16: "Int16",
    torch.int8: "Int8",
    torch.uint8: "UInt8",
    torch.bool: "Bool",
}
"""The element types that tapes know, by their names in Julia."""

_NAME = re.compile(r"\$(\d)")


@dataclass(frozen=True)
class Reference:
    """An operand of a statement: input ``x<index>``, or value ``v<index>`` of a statement."""

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind}{self.index}"


@dataclass(frozen=True)
class Program:
    """Statements in order; the last one's value is the result.

    Attributes
    ----------
    inputs : int
        How many operands ``x1 ... xn`` it has.
    statements : tuple of (template, arguments)
        A template such as ``"$1 * $2"``; an argument is a :class:`Reference` or the text
        of a literal.

    Examples
    --------
    >>> str(Program.of("tanh($1)", [Reference("x", 1)]))
    'tanh(x1)'
    """

    inputs: int
    statements: tuple[tuple[str, tuple[Reference | str, ...]], ...]

    @classmethod
    def of(cls, template: str, args: Sequence[Reference | str]) -> Program:
        """A program of one statement."""
        inputs = len({arg for arg in args if isinstance(arg, Reference)})
        return cls(inputs, ((template, tuple(args)),))

    def added_to(self, operand: Reference) -> Program:
        """The sum of one more operand and this program's result.

        >>> str(Program.of("tanh($1)", [Reference("x", 1)]).added_to(Reference("x", 2)))
        'v1 = tanh(x1); x2 + v1'
        """
        result = Reference("v", len(self.statements))
        total = ("$1 + $2", (operand, result))
        return Program(self.inputs + 1, (*self.statements, total))

    @property
    def is_copy(self) -> bool:
        """Whether it returns its only operand unchanged."""
        return self.statements == (("$1", (Reference("x", 1),)),)

    def __str__(self) -> str:
        texts = [_filled(template, args) for template, args in self.statements]
        named = [f"v{index} = {text}" for index, text in enumerate(texts[:-1], start=1)]
        return "; ".join([*named, texts[-1]])


def _filled(template: str, args: Sequence[Reference | str]) -> str:
    return _NAME.sub(lambda match: str(args[int(match[1]) - 1]), template)


def julia_literal(literal: Literal) -> str:
    """The number as text that is typed in Julia, and a call in Python: ``Float32(0.5)``.

    >>> julia_literal(Literal(0.5, torch.float32))
    'Float32(0.5)'
    """
    value = literal.value
    if literal.dtype == torch.bool:
        return "Bool(1)" if value else "Bool(0)"
    text = repr(value).replace("inf", "Inf").replace("nan", "NaN")
    return f"{JULIA_TYPES[literal.dtype]}({text})"
