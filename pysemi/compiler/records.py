"""What an evaluation of f leaves for its pullback, so that nothing is computed twice.

The joint graph of f and its products falls into three: f, which leaves a record of arrays that
it computes anyway; the pullback, which reads the record; and sums over the rows of a batch, for
the gradients of parameters. A sum over several evaluations is one over more rows, so these can
be made for many at once: of a batch of one, a weight's gradient is an outer product as large as
the weight itself, and of 64 evaluations one matrix product that is no larger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pysemi.compiler.fuse import fuse
from pysemi.compiler.graph import Graph, Node, Operand, View
from pysemi.compiler.scalar import Program, Reference

__all__ = ["Split", "split"]

MOST_ROWS = 128
"""A product over more rows than these gains nothing from still more."""

_OUTER = Program(2, (("$1 * $2", (Reference("x", 1), Reference("x", 2))),))


@dataclass(frozen=True)
class Split:
    """A joint graph in three parts, to run one after the other.

    Attributes
    ----------
    record : Graph
        f, and the arrays of ``kept`` as further outputs.
    reverse : Graph
        Of these as inputs: λᵀ∂f/∂y, what ``gather`` does not compute of λᵀ∂f/∂θ, and the
        arrays of ``operands``.
    gather : Graph
        Of both kinds of arrays as inputs, and of λ: sums over the rows of a batch.
    kept, operands : dict of str to Node
        What an array of that name holds.
    """

    record: Graph
    reverse: Graph
    gather: Graph
    kept: dict[str, Node]
    operands: dict[str, Node]


@dataclass(frozen=True)
class _Sum:
    """A node that adds up rows, and which dimension of each operand counts them."""

    node: Node
    rows: tuple[tuple[View, int], ...]

    def over(self, sources: Mapping[Node, Node]) -> Node:
        """The same of other sources."""
        args = tuple(replace(view, source=sources[view.source]) for view, _ in self.rows)
        after = 1 + max(view.source.order for view, _ in self.rows)
        return replace(self.node, args=args, order=after)


def split(graph: Graph, bars: Sequence[str]) -> Split:
    """Split a joint graph of t, y and λ into "dy", "y_bar" and the parameters' ``bars``."""
    sums = _sums(graph, bars)
    recorder = _Recorder(graph)
    operands: list[Node] = []
    for node in dict.fromkeys(view.source for x in sums.values() for view, _ in x.rows):
        if node is graph.inputs.get("cotangent"):
            continue
        if not recorder.provide(node):
            operands.append(node)
    named = {f"operand{index}": node for index, node in enumerate(operands)}
    # What does not depend on y or a parameter has no output.
    others = [name for name in ("y_bar", *bars) if name in graph.outputs and name not in sums]
    outputs = {name: graph.outputs[name] for name in others}
    outputs |= {name: node.whole() for name, node in named.items()}
    recorder.provide_all(x.source for x in outputs.values() if isinstance(x, View))
    kept = {f"record{index}": node for index, node in enumerate(recorder.kept)}

    record = Graph(dict(graph.inputs), {"dy": graph.outputs["dy"]})
    record.outputs |= {name: node.whole() for name, node in kept.items()}
    given = {node: _input(name, node) for name, node in kept.items()}
    reverse = _rebuilt(outputs, given)
    given |= {node: _input(name, node) for name, node in named.items()}
    if "cotangent" in graph.inputs:
        given[graph.inputs["cotangent"]] = graph.inputs["cotangent"]
    gather = Graph(outputs={name: x.over(given).whole() for name, x in sums.items()})
    return Split(record, reverse, gather, kept, named)


def _input(name: str, like: Node) -> Node:
    return Node("input", like.shape, like.dtype, attrs=(name,), order=like.order)


class _Recorder:
    """Finds the arrays that f has to keep."""

    def __init__(self, graph: Graph) -> None:
        self.kept: dict[Node, None] = {}
        nodes = graph.nodes(["dy"])
        self._forward = set(nodes)
        # Those that f writes to memory; others are values within a kernel.
        self._written = {node.order for node in fuse(graph, ["dy"]).nodes(["dy"])}
        self._state = graph.inputs.get("y")
        moving = {self._state, graph.inputs.get("t")}
        for node in nodes:
            if any(source in moving for source in node.sources()):
                moving.add(node)
        self._moving = moving

    def provide(self, node: Node) -> bool:
        """See to it that the pullback can have ``node``; say whether it is kept itself."""
        self.provide_all([node])
        return node in self.kept

    def provide_all(self, nodes: Iterable[Node]) -> None:
        pending, seen = list(nodes), set[Node]()
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if self._is_kept(node):
                self.kept[node] = None
            else:
                pending.extend(node.sources())

    def _is_kept(self, node: Node) -> bool:
        if node is self._state:
            return True
        if node not in self._forward or node.kind in ("input", "constant"):
            return False
        # What is the same at every evaluation is not kept for each.
        return node in self._moving and node.order in self._written and not _is_spread_out(node)


def _is_spread_out(node: Node) -> bool:
    """Whether it is little else than smaller arrays over again, as a convolution's windows are."""
    if not _moves(node):
        return False
    pending, seen, size = list(node.sources()), set[Node](), 0
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if _moves(source):
            pending.extend(source.sources())
        else:
            size += source.size
    return node.size > size


def _moves(node: Node) -> bool:
    """Whether making it again costs no more than reading and writing it."""
    if node.kind == "pointwise":
        program: Program = node.attrs[0]
        return not any("(" in template for template, _ in program.statements)
    return node.kind in ("assemble", "window", "take")


def _rebuilt(outputs: Mapping[str, Operand], given: Mapping[Node, Node]) -> Graph:
    """The graph of ``outputs`` with some of its nodes replaced by inputs."""
    found: dict[Node, Node] = {}
    pending = [x.source for x in outputs.values() if isinstance(x, View)]
    reached: dict[Node, None] = {}
    while pending:
        node = pending.pop()
        if node not in reached:
            reached[node] = None
            pending.extend(() if node in given else node.sources())

    def moved(x: Operand) -> Operand:
        return replace(x, source=found[x.source]) if isinstance(x, View) else x

    for node in sorted(reached, key=lambda node: node.order):
        found[node] = given.get(node) or replace(node, args=tuple(map(moved, node.args)))
    inputs = {node.attrs[0]: node for node in found.values() if node.kind == "input"}
    return Graph(inputs, {name: moved(x) for name, x in outputs.items()})


def _sums(graph: Graph, bars: Sequence[str]) -> dict[str, _Sum]:
    """Those of the outputs that are sums over rows which several evaluations may share."""
    fixed = {node for name, node in graph.inputs.items() if name not in ("y", "cotangent")}
    read = Counter(source for node in graph.nodes() for source in set(node.sources()))
    read.update(x.source for x in graph.outputs.values() if isinstance(x, View))
    outs = {name: graph.outputs[name] for name in bars if name in graph.outputs}
    whole = {name: x for name, x in outs.items() if isinstance(x, View) and x.is_whole}
    found = {name: _as_sum(x) for name, x in whole.items() if read[x.source] == 1}
    products = {
        name: x
        for name, x in found.items()
        if x is not None and x.node.kind == "matmul" and _can_follow(x, fixed)
    }
    # What is laid in line for products serves other sums of it too, but not for these alone.
    in_line = {view.source for x in products.values() for view, _ in x.rows}
    totals: dict[str, _Sum] = {}
    for name, out in whole.items():
        total = _single(out) if out.source in in_line else found.get(name)
        if total is not None and total.rows[0][0].source in in_line and _can_follow(total, fixed):
            totals.setdefault(name, total)
    return products | {name: x for name, x in totals.items() if name not in products}


def _as_sum(out: View) -> _Sum | None:
    """The sum over rows that the node of ``out`` is."""
    node = out.source
    views = [arg for arg in node.args if isinstance(arg, View)]
    if node.kind == "matmul" and len(node.shape) == 2:
        a, b = views
        return _Sum(node, ((a, 1), (b, 0))) if a.shape[1] <= MOST_ROWS else None
    if node.kind == "pointwise" and node.attrs[0] == _OUTER and len(node.shape) == 2:
        return _outer(node, *views)
    if node.kind == "reduce" and node.attrs[0] == "sum" and 0 in node.attrs[1]:
        return _Sum(node, ((views[0], 0),))
    return None


def _outer(node: Node, a: View, b: View) -> _Sum | None:
    """An outer product, as a matrix product over one row."""
    if a.stride[1] != 0:
        a, b = b, a
    if a.stride[1] != 0 or b.stride[0] != 0:
        return None
    m, n = node.shape
    column = View(a.source, (m, 1), (a.stride[0], 0), a.offset)
    row = View(b.source, (1, n), (0, b.stride[1]), b.offset)
    made = replace(node, kind="matmul", args=(column, row), attrs=())
    return _Sum(made, ((column, 1), (row, 0)))


def _single(out: View) -> _Sum:
    """An array as a sum over one row."""
    row = View(out.source, (1, out.size), (0, 1), 0)
    node = Node("reduce", row.shape, out.dtype, (row,), ("sum", (0,)))
    return _Sum(node, ((row, 0),))


def _can_follow(found: _Sum, fixed: set[Node]) -> bool:
    """Whether rows of the next evaluation's arrays follow these, if the arrays lie in line."""
    for view, dim in found.rows:
        if view.source.kind == "constant" or view.source in fixed:
            return False
        rows = view.shape[dim]
        if rows != 1 and rows * view.stride[dim] != view.source.size:
            return False
    return True
