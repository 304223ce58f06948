"""Puts a :class:`~pysemi.compiler.graph.Graph` together, simplest form first.

Every operator of ``pysemi/compiler/ops`` describes itself by calls of one
:class:`Builder`. What can be known without running anything is settled here: equal
computations are one node, constants are folded, ``x + 0`` is ``x``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.graph import Graph, Literal, Node, Operand, View
from pysemi.compiler.scalar import JULIA_TYPES, Program, Reference, julia_literal
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["Box", "Builder", "Piece", "as_operand", "assembled", "broadcast_shape"]

Number = bool | int | float

Box = tuple[tuple[int, int, int], ...]
"""(start, stop, step) in each dimension."""


@dataclass(frozen=True)
class Piece:
    """What an "assemble" node writes into one box of its array."""

    box: Box
    source: Operand

    @classmethod
    def of(cls, box: Box, x: Operand) -> Piece:
        """``x`` broadcast to the box."""
        return cls(box, _expanded(x, tuple(len(range(*bounds)) for bounds in box)))

    @property
    def size(self) -> int:
        """Number of elements written."""
        return prod(len(range(*bounds)) for bounds in self.box)


def assembled(node: Node) -> tuple[Operand | None, list[Piece]]:
    """The base and the pieces of an "assemble" node."""
    has_base, boxes = node.attrs
    base = node.args[0] if has_base else None
    sources = node.args[1:] if has_base else node.args
    return base, [Piece(box, source) for box, source in zip(boxes, sources, strict=True)]


def _disjoint(pieces: Sequence[Piece]) -> bool:
    return not any(
        all(_meet(a, b) for a, b in zip(first.box, second.box, strict=True))
        for first, second in combinations(pieces, 2)
    )


def _meet(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    # Of strided ranges: whether their hulls meet, which is enough to be safe.
    return first[0] < second[1] and second[0] < first[1]


class Builder:
    """Makes the nodes of one graph.

    Attributes
    ----------
    graph : Graph
    origin : str
        Module path that new nodes are marked with.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self.origin = ""
        self._known: dict[Any, Node] = {}
        self._constants: dict[Any, Node] = {}
        self._count = 0

    def node(
        self,
        kind: str,
        shape: Iterable[int],
        dtype: torch.dtype,
        args: Sequence[Operand] = (),
        attrs: tuple[Any, ...] = (),
    ) -> View:
        """Everything that the one node of this description computes."""
        shape = tuple(shape)
        if dtype not in JULIA_TYPES:
            raise Untranslatable(f"a tensor of {dtype}")
        key = (kind, shape, dtype, tuple(args), attrs)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._new(kind, shape, dtype, tuple(args), attrs)
        return found.whole()

    def input(self, name: str, shape: Iterable[int], dtype: torch.dtype) -> View:
        """The input ``name``."""
        made = self.node("input", shape, dtype, attrs=(name,))
        self.graph.inputs[name] = made.source
        return made

    def constant(self, value: Tensor) -> Operand:
        """A tensor that is the same at every call: a literal if all its elements are equal."""
        value = value.detach()
        if value.numel() == 0:
            return Literal(0, value.dtype, tuple(value.shape))
        first = value.reshape(-1)[0]
        same = value == first if first == first else value != value
        if bool(same.all()):
            return Literal(first.item(), value.dtype, tuple(value.shape))
        value = value.contiguous().clone()
        key = (value.dtype, tuple(value.shape), value.cpu().numpy().tobytes())
        found = self._constants.get(key)
        if found is None:
            found = self._new("constant", tuple(value.shape), value.dtype, (), ())
            found.value = value
            self._constants[key] = found
        return found.whole()

    def array(self, x: Operand) -> View:
        """``x`` as something that lies in memory, for kernels that take no literals."""
        if isinstance(x, View):
            return x
        value = torch.full((1,), x.value, dtype=x.dtype)
        key = (x.dtype, "literal", repr(x.value))
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = self._new("constant", (1,), x.dtype, (), ())
            found.value = value
        return View(found, x.shape, (0,) * len(x.shape), 0)

    def pointwise(
        self,
        template: str,
        *operands: Operand | Number,
        dtype: torch.dtype,
        compute: torch.dtype | Sequence[torch.dtype] | None = None,
    ) -> Operand:
        """Apply a scalar function to each element of the broadcast operands.

        Parameters
        ----------
        template : str
            In the operands ``$1``, ``$2``, ...
        dtype : torch.dtype
            Of the result.
        compute : torch.dtype or sequence of these, optional
            What the operands, or each of them, are converted to; ``dtype`` if left out.
        """
        if compute is None:
            compute = dtype
        wanted = [compute] * len(operands) if isinstance(compute, torch.dtype) else list(compute)
        typed = [as_operand(x, kind) for x, kind in zip(operands, wanted, strict=True)]
        shape = broadcast_shape(typed)
        if prod(shape) == 0:
            return Literal(0, dtype, shape)
        simpler = _identity(template, typed, shape, dtype)
        if simpler is not None:
            return simpler
        views: list[View] = []
        statements: list[tuple[str, tuple[Reference | str, ...]]] = []
        args: list[Reference | str] = []
        for x, kind in zip(typed, wanted, strict=True):
            if isinstance(x, Literal):
                args.append(julia_literal(x))
                continue
            view = x.expand(shape)
            if view not in views:
                views.append(view)
            reference = Reference("x", views.index(view) + 1)
            if view.dtype != kind:
                statements.append((_conversion(view.dtype, kind), (reference,)))
                reference = Reference("v", len(statements))
            args.append(reference)
        statements.append((template, tuple(args)))
        program = Program(len(views), tuple(statements))
        return self.node("pointwise", shape, dtype, views, (program,))

    def assemble(
        self,
        shape: Iterable[int],
        dtype: torch.dtype,
        base: Operand | None,
        pieces: Sequence[tuple[Box, Operand]],
    ) -> Operand:
        """Write operands into boxes of a new array; later ones win where they overlap.

        Parameters
        ----------
        base : Operand or None
            What fills the rest; None if the boxes leave nothing.
        pieces : sequence of (box, operand)
            A box is (start, stop, step) in each dimension; the operand broadcasts to it.
        """
        shape = tuple(shape)
        written = [piece for piece in (Piece.of(box, x) for box, x in pieces) if piece.size]
        if base is not None and isinstance(base, View) and base.is_whole:
            below = base.source
            if below.kind == "assemble" and below.shape == shape:
                base, inner = assembled(below)
                written = [*inner, *written]
        whole = tuple((0, size, 1) for size in shape)
        for index in range(len(written) - 1, -1, -1):
            if written[index].box == whole:
                base, written = None, written[index:]
                break
        if len(written) == 1 and base is None and isinstance(written[0].source, View):
            return written[0].source.expand(shape)
        if base is not None and _disjoint(written):
            covered = sum(piece.size for piece in written)
            base = None if covered == prod(shape) else base
        return self._assemble(shape, dtype, base, written)

    def _assemble(
        self, shape: tuple[int, ...], dtype: torch.dtype, base: Operand | None, pieces: list[Piece]
    ) -> View:
        args = [piece.source for piece in pieces]
        boxes = tuple(piece.box for piece in pieces)
        if base is not None:
            args.insert(0, base)
        return self.node("assemble", shape, dtype, args, (base is not None, boxes))

    def add(self, x: Operand | Number, y: Operand | Number, dtype: torch.dtype) -> Operand:
        """The sum; of arrays that are zero but for boxes which do not overlap, one array."""
        parts = [self._boxes_on_zero(operand, dtype) for operand in (x, y)]
        first, second = parts
        if first and second and isinstance(x, View) and isinstance(y, View) and x.shape == y.shape:
            joined = [*first, *second]
            if _disjoint(joined):
                pairs = [(piece.box, piece.source) for piece in joined]
                return self.assemble(x.shape, dtype, Literal(0, dtype, x.shape), pairs)
        return self.pointwise("$1 + $2", x, y, dtype=dtype)

    def _boxes_on_zero(self, x: Operand | Number, dtype: torch.dtype) -> list[Piece] | None:
        if not (isinstance(x, View) and x.is_whole and x.source.kind == "assemble"):
            return None
        if x.source.shape != x.shape or x.dtype != dtype:
            return None
        base, pieces = assembled(x.source)
        return pieces if base is not None and _is(base, 0) else None

    def convert(self, x: Operand, dtype: torch.dtype) -> Operand:
        """``x`` with elements of another type."""
        if x.dtype == dtype:
            return x
        if isinstance(x, Literal):
            return Literal(x.value, dtype, x.shape)
        return self.pointwise("$1", x, dtype=dtype)

    def expand(self, x: Operand, shape: tuple[int, ...]) -> Operand:
        """``x`` broadcast to ``shape``."""
        return _expanded(x, shape)

    def contiguous(self, x: View) -> View:
        """``x`` itself if it lies together in memory, else a copy that does."""
        return x if x.is_whole else self.copy(x)

    def copy(self, x: Operand) -> View:
        """A new array with the elements of ``x``."""
        args = [x] if isinstance(x, View) else []
        arg = Reference("x", 1) if isinstance(x, View) else julia_literal(x)
        program = Program(len(args), (("$1", (arg,)),))
        return self.node("pointwise", x.shape, x.dtype, args, (program,))

    def output(self, name: str, x: Operand) -> None:
        """Name ``x`` as a result of the graph."""
        self.graph.outputs[name] = x

    def _new(
        self,
        kind: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        args: tuple[Operand, ...],
        attrs: tuple[Any, ...],
    ) -> Node:
        self._count += 1
        return Node(kind, shape, dtype, args, attrs, None, self.origin, self._count)


def as_operand(x: Operand | Number, dtype: torch.dtype) -> Operand:
    """A number as a literal of ``dtype``, and a literal converted to it; a view as it is."""
    if isinstance(x, View):
        return x
    value, shape = (x.value, x.shape) if isinstance(x, Literal) else (x, ())
    return Literal(value, dtype, shape)


def broadcast_shape(operands: Iterable[Operand | Number]) -> tuple[int, ...]:
    """The shape that all the operands broadcast to."""
    shapes = [x.shape for x in operands if isinstance(x, (View, Literal))]
    return tuple(torch.broadcast_shapes(*shapes))


def _conversion(source: torch.dtype, target: torch.dtype) -> str:
    if target == torch.bool:
        return f"$1 != {julia_literal(Literal(0, source))}"
    if source.is_floating_point and not target.is_floating_point:
        return f"trunc({JULIA_TYPES[target]}, $1)"
    return f"{JULIA_TYPES[target]}($1)"


def _identity(
    template: str, operands: Sequence[Operand], shape: tuple[int, ...], dtype: torch.dtype
) -> Operand | None:
    """The operand that ``template`` returns unchanged, if it is known to do so."""
    if template == "$1" and operands[0].dtype == dtype:
        return operands[0]
    if len(operands) != 2 or template not in ("$1 + $2", "$1 - $2", "$1 * $2", "$1 / $2"):
        return None
    first, second = operands
    neutral = 0 if template in ("$1 + $2", "$1 - $2") else 1
    if _is(second, neutral) and _fits(first, shape, dtype):
        return _expanded(first, shape)
    if template in ("$1 + $2", "$1 * $2") and _is(first, neutral) and _fits(second, shape, dtype):
        return _expanded(second, shape)
    return None


def _is(x: Operand, number: int) -> bool:
    return isinstance(x, Literal) and x.value == number


def _fits(x: Operand, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return x.dtype == dtype and isinstance(x, View) and len(x.shape) <= len(shape)


def _expanded(x: Operand, shape: tuple[int, ...]) -> Operand:
    return x.expand(shape) if isinstance(x, View) else Literal(x.value, x.dtype, shape)
