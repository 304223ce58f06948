"""The operators by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch

__all__ = ["OPERATORS", "Operator", "aten", "operator", "register"]

aten: Any = torch.ops.aten

Operator: TypeAlias = Callable[..., Any]
"""(builder, meta, *args, **kwargs) -> Operand or tuple of them. ``meta`` is what torch
returned when the function was traced: its shape and dtype count, its data do not."""

Entry = TypeVar("Entry", bound=Operator)

OPERATORS: dict[Any, Operator] = {}
"""ATen overload -> the function that describes it to a builder."""


def register(overload: Any, entry: Operator) -> None:
    """Enter one operator; each may be entered once."""
    if overload in OPERATORS:
        raise ValueError(f"{overload} is registered already")
    OPERATORS[overload] = entry


def operator(*overloads: Any) -> Callable[[Entry], Entry]:
    """Decorate the function that describes ``overloads``."""

    def decorate(entry: Entry) -> Entry:
        for overload in overloads:
            register(overload, entry)
        return entry

    return decorate
