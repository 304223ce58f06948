"""The compiler's own form of a traced function: nodes that compute, views that cost nothing.

A :class:`Node` computes one new, contiguous array. What it reads are views (a node's array
seen with other strides: transposes, slices, broadcasts, reshapes) and literal numbers. A
node that was asked for twice is made once, since the builder looks its description up first;
so common subexpressions never exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Graph", "Literal", "Node", "Operand", "View", "contiguous_strides"]

Strides: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Literal:
    """A number that is the same at every call; it broadcasts against anything.

    Attributes
    ----------
    value : float, int or bool
    dtype : torch.dtype
    shape : tuple of int
        The shape that torch gave it.
    """

    value: float | int | bool
    dtype: torch.dtype
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        kind = bool if self.dtype == torch.bool else float if self.dtype.is_floating_point else int
        object.__setattr__(self, "value", kind(self.value))

    def __eq__(self, other: object) -> bool:
        # repr tells 0.0 from -0.0, and makes NaN equal to itself.
        return isinstance(other, Literal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return (repr(self.value), self.dtype, self.shape)


@dataclass(eq=False)
class Node:
    """One computation, which fills a new contiguous array (or an input that is given).

    Attributes
    ----------
    kind : str
        "input", "constant", or the kernel that computes it.
    shape : tuple of int
        In torch's order: the last dimension lies together in memory.
    dtype : torch.dtype
    args : tuple of Operand
    attrs : tuple
        What else the kernel needs to know; hashable.
    value : Tensor or None
        Of a constant.
    origin : str
        Path of the module that asked for it, for listings.
    order : int
        Position in the order of creation, in which a node's operands come before it.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    args: tuple[Operand, ...] = ()
    attrs: tuple[Any, ...] = ()
    value: Tensor | None = field(default=None, repr=False)
    origin: str = ""
    order: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def whole(self) -> View:
        """All of it, as it lies in memory."""
        return View(self, self.shape, contiguous_strides(self.shape), 0)

    def sources(self) -> Iterator[Node]:
        """The nodes it reads, once for each operand."""
        for arg in self.args:
            if isinstance(arg, View):
                yield arg.source


@dataclass(frozen=True)
class View:
    """The array of ``source``, seen with other strides.

    Attributes
    ----------
    source : Node
    shape, stride : tuple of int
        As torch's; in elements. A dimension of one element has stride 0, so that equal
        views are equal objects.
    offset : int
        Of the first element.
    """

    source: Node
    shape: tuple[int, ...]
    stride: Strides
    offset: int

    def __post_init__(self) -> None:
        stride = tuple(
            0 if size == 1 else step for size, step in zip(self.shape, self.stride, strict=True)
        )
        object.__setattr__(self, "stride", stride)

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""
        return self.source.dtype

    @property
    def size(self) -> int:
        """Number of elements seen."""
        return prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether it sees exactly the source's elements, in their order in memory."""
        return (
            self.offset == 0
            and self.size == self.source.size
            and self.stride == contiguous_strides(self.shape)
        )

    def as_meta(self) -> Tensor:
        """A tensor without data and with this view's geometry: torch does the view arithmetic."""
        storage = torch.empty(self.source.size, dtype=self.dtype, device="meta")
        return storage.as_strided(self.shape, self.stride, self.offset)

    def like(self, meta: Tensor) -> View:
        """The view of the same source that has the geometry of ``meta``."""
        return View(self.source, tuple(meta.shape), meta.stride(), int(meta.storage_offset()))

    def expand(self, shape: tuple[int, ...]) -> View:
        """Broadcast to ``shape``."""
        return self if shape == self.shape else self.like(self.as_meta().expand(shape))


Operand: TypeAlias = View | Literal


def contiguous_strides(shape: Iterable[int]) -> Strides:
    """Strides of a contiguous array; 0 for dimensions of one element."""
    strides: list[int] = []
    step = 1
    for size in reversed(tuple(shape)):
        strides.append(0 if size == 1 else step)
        step *= size
    return tuple(reversed(strides))


@dataclass
class Graph:
    """A function as nodes, with named inputs and outputs.

    Attributes
    ----------
    inputs : dict of str to Node
    outputs : dict of str to Operand
    """

    inputs: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Operand] = field(default_factory=dict)

    def nodes(self, outputs: Iterable[str] | None = None) -> list[Node]:
        """What the named outputs (all, if left out) depend on, operands first."""
        names = self.outputs if outputs is None else outputs
        pending = [
            out.source for out in map(self.outputs.__getitem__, names) if isinstance(out, View)
        ]
        found: dict[Node, None] = {}  # in order: some nodes have the same position
        while pending:
            node = pending.pop()
            if node not in found:
                found[node] = None
                pending.extend(node.sources())
        return sorted(found, key=lambda node: node.order)
