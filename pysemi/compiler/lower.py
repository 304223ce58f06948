"""From graphs to a tape: which kernel, into which memory.

Results are written straight to where they are wanted, and work space is used again as
soon as what it holds has been read for the last time.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pysemi.compiler.fuse import MOST_INPUTS, fuse
from pysemi.compiler.graph import Graph, Literal, Node, Operand, View, contiguous_strides
from pysemi.compiler.scalar import Program, Reference, julia_literal
from pysemi.compiler.tape import Buffer, Instruction, Role, Tape, Window

__all__ = ["Place", "Results", "lower"]

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""


LEVELS = 6
"""Nested loops of a kernel: ``LEVELS`` in ``julia/PySemi/src/windows.jl``."""


@dataclass(frozen=True)
class Place:
    """Where an input is read or a result is written: part of a buffer of some role."""

    role: Role
    offset: int = 0
    index: int = 0


@dataclass(frozen=True)
class Results:
    """What a program leaves behind: outputs of a graph, by name.

    Attributes
    ----------
    graph : Graph
    written : sequence of str
        In place of what was there.
    added : sequence of str
        To what was there.
    """

    graph: Graph
    written: Sequence[str]
    added: Sequence[str] = ()


def lower(
    programs: Mapping[str, Results],
    places: Mapping[str, Place],
    sizes: Mapping[Role, int],
    dtype: torch.dtype,
    arrays: Mapping[str, Node] | None = None,
) -> Tape:
    """Lower graphs to a tape.

    Parameters
    ----------
    programs : mapping
        Name of a program -> what it computes.
    places : mapping
        Name of an input or output -> where it lies.
    sizes : mapping
        Role -> elements of its buffer, for the roles that have one buffer.
    dtype : torch.dtype
        Of those buffers.
    arrays : mapping, optional
        Name of an input or output that has a buffer of its own -> a node of its size and type.
    """
    memory = _Memory(places, dict.fromkeys(sizes, dtype), sizes)
    for name, like in (arrays or {}).items():
        memory.own(name, like)
    lowered = {}
    for name, results in programs.items():
        written, added = (
            [output for output in outputs if output in results.graph.outputs]
            for outputs in (results.written, results.added)
        )
        program = _Program(fuse(results.graph, [*written, *added]), written, added, memory)
        lowered[name] = program.instructions
    return Tape(tuple(memory.buffers), lowered)


class _Memory:
    """The buffers of one tape."""

    def __init__(
        self,
        places: Mapping[str, Place],
        dtypes: Mapping[Role, torch.dtype],
        sizes: Mapping[Role, int],
    ) -> None:
        self.places = places
        self.buffers: list[Buffer] = []
        self._by_role = {role: self.new(role, dtypes[role], size) for role, size in sizes.items()}
        self._tensors: dict[int, Buffer] = {}
        self._own: dict[str, Buffer] = {}
        self._records = _WorkSpace()
        self._constants: dict[bytes, Buffer] = {}
        self._work: dict[tuple[torch.dtype, int, int], Buffer] = {}

    def new(self, role: Role, dtype: torch.dtype, size: int, place: int = 0) -> Buffer:
        buffer = Buffer(len(self.buffers) + 1, role, dtype, size, place)
        self.buffers.append(buffer)
        return buffer

    def own(self, name: str, like: Node) -> None:
        """Give an input or output a buffer of its own."""
        role = self.places[name].role
        nbytes = like.size * like.dtype.itemsize
        place = self._records.take(nbytes) if role == "record" else 0
        self._own[name] = self.new(role, like.dtype, like.size, place)

    def given(self, name: str, node: Node | None = None) -> tuple[Buffer, int]:
        """Buffer and offset of an input or output."""
        if name in self._own:
            return self._own[name], 0
        place = self.places[name]
        if place.role != "tensor":
            return self._by_role[place.role], place.offset
        assert node is not None
        if place.index not in self._tensors:
            self._tensors[place.index] = self.new("tensor", node.dtype, node.size, place.index)
        return self._tensors[place.index], 0

    def constant(self, node: Node) -> Buffer:
        assert node.value is not None
        key = str(node.dtype).encode() + node.value.numpy().tobytes()
        if key not in self._constants:
            made = Buffer(len(self.buffers) + 1, "constant", node.dtype, node.size, 0, node.value)
            self.buffers.append(made)
            self._constants[key] = made
        return self._constants[key]

    def work(self, dtype: torch.dtype, size: int, place: int) -> Buffer:
        key = (dtype, size, place)
        if key not in self._work:
            self._work[key] = self.new("work", dtype, size, place)
        return self._work[key]


@dataclass
class _WorkSpace:
    """Which bytes of the shared work memory are in use."""

    used: list[tuple[int, int]] = field(default_factory=list)

    def take(self, nbytes: int) -> int:
        """The first byte of the lowest free piece that is long enough."""
        nbytes = max(nbytes, 1)  # a place of its own, which alone is released
        start = 0
        for begin, end in self.used:
            if begin - start >= nbytes:
                break
            start = max(start, -(-end // ALIGNMENT) * ALIGNMENT)
        insort(self.used, (start, start + nbytes))
        return start

    def release(self, place: int) -> None:
        self.used = [piece for piece in self.used if piece[0] != place]


class _Program:
    """Lowers the graph of one program."""

    def __init__(
        self, graph: Graph, written: Sequence[str], added: Sequence[str], memory: _Memory
    ) -> None:
        self._emitted: list[Instruction] = []
        self._memory = memory
        self._adding: set[Node] = set()
        outputs = [*written, *added]
        self._space = _WorkSpace()
        self._where: dict[Node, tuple[Buffer, int]] = {}
        nodes = graph.nodes(outputs)
        self._last_read: dict[Node, int] = {}
        for index, node in enumerate(nodes):
            for source in node.sources():
                self._last_read[source] = index
        late = self._direct_outputs(graph, written)
        late_sums = self._direct_sums(graph, outputs, added, nodes)
        for name in (*late, *late_sums):
            out = graph.outputs[name]
            if isinstance(out, View):
                self._last_read[out.source] = len(nodes)
        for index, node in enumerate(nodes):
            self._lower(node, index)
        for name in late:
            self._copy_out(name, graph.outputs[name])
        for name in late_sums:
            self._add_out(name, graph.outputs[name])

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        return tuple(self._emitted)

    def _direct_outputs(self, graph: Graph, outputs: Sequence[str]) -> list[str]:
        """Let nodes compute into the results' own memory; return the results that need a copy."""
        late = []
        for name in outputs:
            out = graph.outputs[name]
            if (
                isinstance(out, View)
                and out.is_whole
                and out.source.kind not in ("input", "constant")
                and out.source not in self._where
            ):
                self._where[out.source] = self._memory.given(name)
            else:
                late.append(name)
        return late

    def _direct_sums(
        self, graph: Graph, outputs: Sequence[str], added: Sequence[str], nodes: Sequence[Node]
    ) -> list[str]:
        """Let what nobody else reads be added where it belongs; return the others."""
        readers = Counter(source for node in nodes for source in set(node.sources()))
        readers.update(
            out.source for out in map(graph.outputs.get, outputs) if isinstance(out, View)
        )
        late = []
        for name in added:
            out = graph.outputs[name]
            if (
                isinstance(out, View)
                and out.is_whole
                and readers[out.source] == 1
                and _can_add(out.source)
            ):
                self._where[out.source] = self._memory.given(name)
                self._adding.add(out.source)
            else:
                late.append(name)
        return late

    def _lower(self, node: Node, index: int) -> None:
        if node.kind == "input":
            self._where[node] = self._memory.given(node.attrs[0], node)
            return
        if node.kind == "constant":
            self._where[node] = (self._memory.constant(node), 0)
            return
        if node not in self._where:
            self._where[node] = self._place(node, index)
        getattr(self, f"_lower_{node.kind}")(node)
        for source in dict.fromkeys(node.sources()):  # in order: one function, one tape
            self._free(source, index)

    def _place(self, node: Node, index: int) -> tuple[Buffer, int]:
        if node.kind == "pointwise":
            for arg in node.args:
                if isinstance(arg, View) and self._can_overwrite(arg, node, index):
                    return self._where[arg.source]
        nbytes = node.size * node.dtype.itemsize
        return self._memory.work(node.dtype, node.size, self._space.take(nbytes)), 0

    def _can_overwrite(self, arg: View, node: Node, index: int) -> bool:
        """Whether ``node`` may be computed where ``arg`` lies: element by element, last read."""
        source = arg.source
        if source not in self._where or self._where[source][0].role != "work":
            return False
        same = arg.is_whole and arg.shape == node.shape and source.dtype == node.dtype
        alone = all(x == arg for x in node.args if isinstance(x, View) and x.source is source)
        # Several nodes can lie in one piece of memory, one after the other.
        return same and alone and self._last_read[source] == index and source.size == node.size

    def _free(self, node: Node, index: int) -> None:
        if self._last_read.get(node) != index:
            return
        buffer, _ = self._where[node]
        if buffer.role != "work":
            return
        taken_over = any(
            other is not node and where[0] is buffer and self._last_read.get(other, -1) > index
            for other, where in self._where.items()
        )
        if not taken_over:
            self._space.release(buffer.place)

    def _window(self, view: View) -> Window:
        buffer, offset = self._where[view.source]
        return Window(buffer, view.shape, view.stride, offset + view.offset)

    def _out(self, node: Node) -> Window:
        return self._window(node.whole())

    def _emit(
        self,
        node: Node,
        kernel: str,
        out: Window,
        args: Sequence[View] = (),
        *words: object,
        program: Program | None = None,
        flops: int = 0,
    ) -> None:
        windows = tuple(map(self._window, args))
        self._append(node, kernel, out, windows, words, program, flops)

    def _emit_loops(
        self,
        node: Node,
        kernel: str,
        out: Window,
        args: Sequence[View] = (),
        *words: object,
        program: Program | None = None,
        flops: int = 0,
    ) -> None:
        """One instruction, or several where it takes more loops than a kernel has."""
        pieces = _within_levels((out, *map(self._window, args)))
        for to, *windows in pieces:
            share = flops // len(pieces)
            self._append(node, kernel, to, tuple(windows), words, program, share)

    def _append(
        self,
        node: Node,
        kernel: str,
        out: Window,
        windows: tuple[Window, ...],
        words: Sequence[object],
        program: Program | None,
        flops: int,
    ) -> None:
        self._emitted.append(
            Instruction(kernel, out, windows, tuple(map(str, words)), program, node.origin, flops)
        )

    def _lower_pointwise(self, node: Node) -> None:
        program: Program = node.attrs[0]
        args = _views(node.args)
        if node in self._adding:
            program = program.added_to(Reference("x", program.inputs + 1))
            args.append(node.whole())
        self._map(node, self._out(node), program, args)

    def _map(self, node: Node, out: Window, program: Program, args: Sequence[View]) -> None:
        size = 1
        for n in out.shape:
            size *= n
        work = 0 if program.is_copy else len(program.statements) * size
        self._emit_loops(node, "pointwise", out, args, program=program, flops=work)

    def _lower_assemble(self, node: Node) -> None:
        has_base, boxes, programs = node.attrs
        out = self._out(node)
        args = list(node.args)
        if has_base:
            self._fill(node, out, args.pop(0))
        views = _views(args)
        for box, program in zip(boxes, programs, strict=True):
            used, views = views[: program.inputs], views[program.inputs :]
            self._map(node, _boxed(out, box), program, used)

    def _fill(self, node: Node, out: Window, x: Operand) -> None:
        if isinstance(x, Literal):
            self._map(node, out, Program(0, (("$1", (julia_literal(x),)),)), ())
        else:
            self._map(node, out, _COPY, (x,))

    def _lower_matmul(self, node: Node) -> None:
        a, b = _views(node.args)
        words = ("add",) if node in self._adding else ()
        flops = 2 * node.size * a.shape[-1]
        self._emit(node, "matmul", self._out(node), (a, b), *words, flops=flops)

    def _lower_reduce(self, node: Node) -> None:
        name, over = node.attrs
        (arg,) = _views(node.args)
        out = self._out(node)
        # Over the operand's shape, with stride 0 where the result is added up.
        spread = tuple(0 if d in over else step for d, step in enumerate(out.stride))
        wide = Window(out.buffer, arg.shape, spread, out.offset)
        words = (name, "add") if node in self._adding else (name,)
        self._emit_loops(node, "reduce", wide, (arg,), *words, flops=arg.size)

    def _lower_window(self, node: Node) -> None:
        self._emit(node, "window", self._out(node), _views(node.args), *node.attrs)

    def _lower_take(self, node: Node) -> None:
        self._emit(node, "take", self._out(node), _views(node.args))

    def _lower_put(self, node: Node) -> None:
        base, where, values = node.args
        out = self._out(node)
        self._fill(node, out, base)
        views = _views((where, values))
        self._emit(node, "put", out, views, *node.attrs, flops=views[1].size)

    def _lower_solve(self, node: Node) -> None:
        (transposed,) = node.attrs
        matrix, right = _views(node.args)
        size = matrix.shape[-1]
        flops = node.size * size * 2 + matrix.size * size * 2 // 3
        word = "transposed" if transposed else "plain"
        self._emit(node, "solve", self._out(node), (matrix, right), word, flops=flops)

    def _lower_factor(self, node: Node) -> None:
        (matrix,) = _views(node.args)
        (name,) = node.attrs
        flops = matrix.size * matrix.shape[-1] * 2 // 3
        self._emit(node, "factor", self._out(node), (matrix,), name, flops=flops)

    def _lower_exponential(self, node: Node) -> None:
        (matrix,) = _views(node.args)
        # Six products, a solution and some squarings.
        flops = 20 * matrix.size * matrix.shape[-1]
        self._emit(node, "exponential", self._out(node), (matrix,), flops=flops)

    def _lower_searchsorted(self, node: Node) -> None:
        (right,) = node.attrs
        side = "right" if right else "left"
        self._emit(node, "searchsorted", self._out(node), _views(node.args), side)

    def _copy_out(self, name: str, x: Operand) -> None:
        nobody, out = self._result(name, x)
        self._fill(nobody, out, x)

    def _add_out(self, name: str, x: Operand) -> None:
        if isinstance(x, Literal) and x.value == 0:
            return
        nobody, out = self._result(name, x)
        addend: Reference | str = Reference("x", 2)
        addends = []
        if isinstance(x, Literal):
            addend = julia_literal(x)
        else:
            addends = [self._window(x)]
        program = Program.of("$1 + $2", [Reference("x", 1), addend])
        for to, *windows in _within_levels((out, out, *addends)):
            self._append(nobody, "pointwise", to, tuple(windows), (), program, nobody.size)

    def _result(self, name: str, x: Operand) -> tuple[Node, Window]:
        buffer, offset = self._memory.given(name)
        out = Window(buffer, x.shape, contiguous_strides(x.shape), offset)
        return Node("pointwise", x.shape, x.dtype), out


_COPY = Program.of("$1", [Reference("x", 1)])


def _can_add(node: Node) -> bool:
    """Whether a kernel adds to what is there."""
    if node.kind == "pointwise":
        program: Program = node.attrs[0]
        return program.inputs < MOST_INPUTS
    return node.kind == "matmul" or (node.kind == "reduce" and node.attrs[0] == "sum")


def _views(args: Sequence[Operand]) -> list[View]:
    views = [arg for arg in args if isinstance(arg, View)]
    assert len(views) == len(args)
    return views


def _within_levels(windows: tuple[Window, ...]) -> list[tuple[Window, ...]]:
    """The windows, cut along short dimensions until a kernel's nested loops can run over them."""
    if max(_levels(windows), _levels(windows[::-1])) <= LEVELS:
        return [windows]
    shape = windows[0].shape
    # What is reduced has to stay in one piece.
    cuts = [d for d, n in enumerate(shape) if n > 1 and windows[0].stride[d] != 0]
    dim = min(cuts, key=shape.__getitem__)
    pieces: list[tuple[Window, ...]] = []
    for index in range(shape[dim]):
        pieces += _within_levels(tuple(_at(window, dim, index) for window in windows))
    return pieces


def _levels(windows: tuple[Window, ...]) -> int:
    """Loops that ``Nest`` in ``windows.jl`` makes of these windows."""
    shape = windows[0].shape
    steps = [tuple(window.stride[d] for window in windows) for d, n in enumerate(shape) if n != 1]
    sizes = [n for n in shape if n != 1]
    order = sorted(
        range(len(sizes)), key=lambda d: [step if step else float("inf") for step in steps[d]]
    )
    levels: list[tuple[int, tuple[int, ...]]] = []
    for d in order:
        if levels:
            size, inner = levels[-1]
            if all(step == before * size for step, before in zip(steps[d], inner, strict=True)):
                levels[-1] = (size * sizes[d], inner)
                continue
        levels.append((sizes[d], steps[d]))
    return len(levels)


def _at(window: Window, dim: int, index: int) -> Window:
    shape = (*window.shape[:dim], *window.shape[dim + 1 :])
    stride = (*window.stride[:dim], *window.stride[dim + 1 :])
    return Window(window.buffer, shape, stride, window.offset + index * window.stride[dim])


def _boxed(out: Window, box: Sequence[tuple[int, int, int]]) -> Window:
    offset = out.offset
    shape, stride = [], []
    for (start, stop, step), along in zip(box, out.stride, strict=True):
        offset += start * along
        shape.append(len(range(start, stop, step)))
        stride.append(along * step if shape[-1] > 1 else 0)
    return Window(out.buffer, tuple(shape), tuple(stride), offset)
