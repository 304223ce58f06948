"""The operators by name, of two sorts: described to the builder, or taken apart in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch

__all__ = [
    "DECOMPOSITIONS",
    "OPERATORS",
    "Operator",
    "aten",
    "decomposition",
    "literal_tensor",
    "operator",
    "register",
]

aten: Any = torch.ops.aten

Operator: TypeAlias = Callable[..., Any]
"""(builder, meta, *args, **kwargs) -> Operand or tuple of them. ``meta`` is what torch
returned when the function was traced: its shape and dtype count, its data do not."""

Entry = TypeVar("Entry", bound=Callable[..., Any])

OPERATORS: dict[Any, Operator] = {}
"""ATen overload -> the function that describes it to a builder."""

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}
"""ATen overload -> the same function in other operators of torch, where torch has none.

The results have the strides that the overload's own have: views of them are in the trace.
"""


def register(overload: Any, entry: Operator) -> None:
    """Enter one operator; each may be entered once."""
    _enter(OPERATORS, overload, entry)


def operator(*overloads: Any) -> Callable[[Entry], Entry]:
    """Decorate the function that describes ``overloads``."""
    return _decorator(OPERATORS, overloads)


def decomposition(*overloads: Any) -> Callable[[Entry], Entry]:
    """Decorate the function that computes ``overloads`` by other operators."""
    return _decorator(DECOMPOSITIONS, overloads)


def literal_tensor(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What ``make`` returns, as a constant of the trace; how it was computed is not traced."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes(), torch.no_grad():
        made = make()
    lifted: torch.Tensor = aten.lift_fresh_copy.default(made)
    return lifted


def _decorator(table: dict[Any, Any], overloads: tuple[Any, ...]) -> Callable[[Entry], Entry]:
    def decorate(entry: Entry) -> Entry:
        for overload in overloads:
            _enter(table, overload, entry)
        return entry

    return decorate


def _enter(table: dict[Any, Any], overload: Any, entry: Callable[..., Any]) -> None:
    if overload in OPERATORS or overload in DECOMPOSITIONS:
        raise ValueError(f"{overload} is registered already")
    table[overload] = entry
