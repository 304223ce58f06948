"""Joins chains of pointwise nodes, so that one kernel passes over memory once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pysemi.compiler.graph import Graph, Literal, Node, Operand, View
from pysemi.compiler.scalar import Program, Reference, julia_literal

__all__ = ["fuse"]

MOST_INPUTS = 8
"""Operands of one kernel: more pointers than this no longer stay in registers."""

MOST_STATEMENTS = 32
"""Statements of one kernel: beyond this, compiling it costs more than it saves."""


def fuse(graph: Graph, outputs: Sequence[str]) -> Graph:
    """Return the graph of the named outputs, with pointwise chains joined.

    A pointwise node goes into its reader if that reads all of it, element by element
    (transposed and reshaped, if need be), and nobody else does; or if reading it anew costs
    no more than reading its result.
    """
    while True:
        # Of several readers that became one node, what they read may go into that now.
        joined = _join(graph, outputs)
        if len(joined.nodes(outputs)) == len(graph.nodes(outputs)):
            return joined
        graph = joined


def _join(graph: Graph, outputs: Sequence[str]) -> Graph:
    nodes = graph.nodes(outputs)
    readers = Counter(source for node in nodes for source in set(node.sources()))
    for name in outputs:
        out = graph.outputs[name]
        if isinstance(out, View):
            readers[out.source] += 2  # a result has to exist, whoever reads it
    fused: dict[Node, Node] = {}
    for node in nodes:
        args = tuple(_moved(arg, fused) for arg in node.args)
        if node.kind == "pointwise":
            args, program = _absorb(node, args, readers, fused)
            fused[node] = replace(node, args=args, attrs=(program,))
        elif node.kind == "assemble" and not _has_programs(node):
            fused[node] = _absorb_pieces(node, args, readers, fused)
        else:
            fused[node] = replace(node, args=args)
    result = Graph()
    result.outputs = {name: _moved(graph.outputs[name], fused) for name in outputs}
    result.inputs = {name: fused[node] for name, node in graph.inputs.items() if node in fused}
    return result


def _has_programs(node: Node) -> bool:
    """Whether the pieces of an "assemble" node have become programs of their own."""
    return len(node.attrs) == 3


def _moved(x: Operand, fused: dict[Node, Node]) -> Operand:
    if isinstance(x, Literal):
        return x
    return View(fused[x.source], x.shape, x.stride, x.offset)


class _Writer:
    """A program that grows by other programs."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.statements: list[tuple[str, tuple[Reference | str, ...]]] = []

    def read(self, view: View) -> Reference:
        if view not in self.views:
            self.views.append(view)
        return Reference("x", self.views.index(view) + 1)

    def append(self, program: Program, inputs: Sequence[Reference]) -> Reference:
        values: list[Reference] = []
        for template, args in program.statements:
            here = tuple(
                arg
                if isinstance(arg, str)
                else (inputs if arg.kind == "x" else values)[arg.index - 1]
                for arg in args
            )
            if template == "$1" and isinstance(here[0], Reference):
                values.append(here[0])
                continue
            if (template, here) not in self.statements:
                self.statements.append((template, here))
            values.append(Reference("v", self.statements.index((template, here)) + 1))
        return values[-1]

    def program(self, result: Reference) -> Program:
        statements = list(self.statements)
        if not statements or result != Reference("v", len(statements)):
            statements.append(("$1", (result,)))
        return Program(len(self.views), tuple(statements))


def _absorb(
    node: Node, args: Sequence[Operand], readers: Counter[Node], fused: dict[Node, Node]
) -> tuple[tuple[View, ...], Program]:
    program: Program = node.attrs[0]
    writer = _Writer()
    result = writer.append(program, _read_all(writer, node.args, args, readers, fused))
    made = writer.program(result)
    if len(writer.views) > MOST_INPUTS or len(made.statements) > MOST_STATEMENTS:
        return tuple(arg for arg in args if isinstance(arg, View)), program
    return tuple(writer.views), made


def _read_all(
    writer: _Writer,
    before: Sequence[Operand],
    args: Sequence[Operand],
    readers: Counter[Node],
    fused: dict[Node, Node],
) -> list[Reference]:
    references = []
    for old, arg in zip(before, args, strict=True):
        assert isinstance(arg, View)
        assert isinstance(old, View)
        inner = _composed(old, fused[old.source], readers)
        if inner is None:
            references.append(writer.read(arg))
        else:
            inputs = [writer.read(view) for view in inner]
            references.append(writer.append(fused[old.source].attrs[0], inputs))
    return references


def _composed(arg: View, producer: Node, readers: Counter[Node]) -> list[View] | None:
    """What the reader of ``arg`` reads instead if the producer goes into it; None if not."""
    if producer.kind != "pointwise" or arg.size != producer.size or arg.offset != 0:
        return None
    if readers[arg.source] > 1 and not _is_cheap(producer):
        return None
    # In the order in which they lie in memory, the dimensions of arg are a reshape of
    # the producer's.
    order = sorted(range(len(arg.shape)), key=lambda d: -arg.stride[d])
    laid = View(
        arg.source,
        tuple(arg.shape[d] for d in order),
        tuple(arg.stride[d] for d in order),
        0,
    )
    if not laid.is_whole:
        return None
    back = sorted(range(len(order)), key=order.__getitem__)
    views = []
    for inner in producer.args:
        assert isinstance(inner, View)
        try:
            meta = inner.as_meta().view(laid.shape).permute(back)
        except RuntimeError:  # its strides have no such reshape
            return None
        views.append(inner.like(meta))
    return views


def _is_cheap(producer: Node) -> bool:
    program: Program = producer.attrs[0]
    calls = any("(" in template for template, _ in program.statements)
    return len(producer.args) <= 1 and len(program.statements) == 1 and not calls


def _absorb_pieces(
    node: Node, args: Sequence[Operand], readers: Counter[Node], fused: dict[Node, Node]
) -> Node:
    """Each piece becomes a program of its own, written straight into its box."""
    has_base, boxes = node.attrs
    old = node.args[1:] if has_base else node.args
    new = args[1:] if has_base else args
    programs: list[Program] = []
    flat: list[Operand] = [args[0]] if has_base else []
    for before, after in zip(old, new, strict=True):
        if isinstance(after, Literal):
            programs.append(Program(0, (("$1", (julia_literal(after),)),)))
            continue
        writer = _Writer()
        (result,) = _read_all(writer, [before], [after], readers, fused)
        programs.append(writer.program(result))
        flat.extend(writer.views)
    return replace(node, args=tuple(flat), attrs=(has_base, boxes, tuple(programs)))
