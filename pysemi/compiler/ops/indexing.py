"""Operators that pick elements or put them somewhere.

Three kernels serve them all: "assemble" writes operands into boxes of a new array
(``cat``, ``slice_scatter``, padding), "take" reads and "put" writes at linear indices.
Where the indices are constants, so are the linear ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import inf, prod
from typing import Any

import torch

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Literal, Operand, View, contiguous_strides
from pysemi.compiler.ops.pointwise import where
from pysemi.compiler.ops.registry import aten, operator
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["constant_value", "put_rows", "reshaped", "take_rows"]


@operator(aten.cat.default)
def _cat(builder: Builder, meta: Any, parts: Sequence[Operand], dim: int = 0) -> Operand:
    rank = len(meta.shape)
    dim %= rank
    # torch still lets a 1-d empty tensor through, whatever the others' rank.
    parts = [part for part in parts if len(part.shape) == rank]
    ends = list(accumulate(part.shape[dim] for part in parts))
    pieces = []
    for part, end in zip(parts, ends, strict=True):
        box = _whole_box(meta.shape)
        box[dim] = (end - part.shape[dim], end, 1)
        pieces.append((tuple(box), builder.convert(part, meta.dtype)))
    return builder.assemble(meta.shape, meta.dtype, None, pieces)


@operator(aten.slice_scatter.default)
def _slice_scatter(
    builder: Builder,
    meta: Any,
    x: Operand,
    source: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Operand:
    dim %= len(meta.shape)
    begin, stop, step = slice(start, end, step).indices(meta.shape[dim])
    box = _whole_box(meta.shape)
    box[dim] = (begin, stop, step)
    return builder.assemble(meta.shape, meta.dtype, x, [(tuple(box), source)])


@operator(aten.select_scatter.default)
def _select_scatter(
    builder: Builder, meta: Any, x: Operand, source: Operand, dim: int, index: int
) -> Operand:
    dim %= len(meta.shape)
    index %= meta.shape[dim]
    box = _whole_box(meta.shape)
    box[dim] = (index, index + 1, 1)
    shape = tuple(1 if d == dim else size for d, size in enumerate(meta.shape))
    return builder.assemble(
        meta.shape, meta.dtype, x, [(tuple(box), reshaped(builder, source, shape))]
    )


@operator(aten.constant_pad_nd.default)
def _pad(builder: Builder, meta: Any, x: Operand, pad: Sequence[int], value: Any = 0) -> Operand:
    box = _whole_box(meta.shape)
    inner = [(0, size, 1) for size in x.shape]
    for pair, dim in zip(range(0, len(pad), 2), reversed(range(len(x.shape))), strict=False):
        before, after = pad[pair], pad[pair + 1]
        size = x.shape[dim]
        box[dim] = (max(before, 0), max(before, 0) + size + min(before, 0) + min(after, 0), 1)
        inner[dim] = (max(-before, 0), size - max(-after, 0), 1)
    seen = builder.array(x)
    meta_in = seen.as_meta()[tuple(slice(*bounds) for bounds in inner)]
    base = Literal(value, meta.dtype, tuple(meta.shape))
    return builder.assemble(meta.shape, meta.dtype, base, [(tuple(box), seen.like(meta_in))])


@operator(aten.repeat.default)
def _repeat(builder: Builder, meta: Any, x: Operand, repeats: Sequence[int]) -> Operand:
    lead = (1,) * (len(repeats) - len(x.shape))
    shape = (*lead, *x.shape)
    split = [n for pair in zip((1,) * len(shape), shape, strict=True) for n in pair]
    wide = [n for pair in zip(repeats, shape, strict=True) for n in pair]
    seen = reshaped(builder, x, tuple(split))
    expanded = builder.array(seen).expand(tuple(wide))
    return reshaped(builder, expanded, tuple(meta.shape))


@operator(aten.flip.default)
def _flip(builder: Builder, meta: Any, x: Operand, dims: Sequence[int]) -> Operand:
    linear = torch.arange(meta.numel()).view(meta.shape).flip(list(dims))
    return _take(builder, x, builder.constant(linear), tuple(meta.shape))


@operator(aten.index_select.default)
def _index_select(builder: Builder, meta: Any, x: Operand, dim: int, index: Operand) -> Operand:
    if not x.shape:
        return x
    indices: list[Operand | None] = [None] * len(x.shape)
    indices[dim % len(x.shape)] = reshaped(builder, index, (meta.shape[dim],))
    if isinstance(x, View) and meta.shape[dim] == 1 and isinstance(index, View):
        # One slice at a place known only at run time: a copy from a moving window.
        dim %= len(x.shape)
        window = x.like(x.as_meta().narrow(dim, 0, 1))
        attrs = (x.stride[dim], x.shape[dim])
        where = reshaped(builder, index, ())
        return builder.node("window", meta.shape, meta.dtype, (window, where), attrs)
    return _index(builder, meta, x, indices)


@operator(aten.index.Tensor)
def _index(builder: Builder, meta: Any, x: Operand, indices: Sequence[Operand | None]) -> Operand:
    linear = _linear(builder, tuple(x.shape), indices)
    return _take(builder, x, linear, tuple(meta.shape))


@operator(aten.gather.default)
def _gather(
    builder: Builder, meta: Any, x: Operand, dim: int, index: Operand, sparse_grad: bool = False
) -> Operand:
    return _take(builder, x, _along(builder, x, dim, index), tuple(meta.shape))


@operator(aten.index_put.default)
def _index_put(
    builder: Builder,
    meta: Any,
    x: Operand,
    indices: Sequence[Operand | None],
    values: Operand,
    accumulate: bool = False,
) -> Operand:
    if not accumulate and len(indices) == 1 and prod(values.shape) == 1:
        (mask,) = indices
        if mask is not None and mask.dtype == torch.bool:  # x[mask] = one number
            value = reshaped(builder, values, ())
            lead = reshaped(builder, mask, (*mask.shape, *[1] * (len(x.shape) - len(mask.shape))))
            return where(builder, meta, lead, value, x)
    linear = _linear(builder, tuple(x.shape), indices)
    return _put(builder, meta, x, linear, values, "add" if accumulate else "set")


@operator(aten.scatter.src)
def _scatter(
    builder: Builder, meta: Any, x: Operand, dim: int, index: Operand, source: Operand
) -> Operand:
    return _scattered(builder, meta, x, dim, index, source, "set")


@operator(aten.scatter.value)
def _scatter_value(
    builder: Builder, meta: Any, x: Operand, dim: int, index: Operand, value: Any
) -> Operand:
    source = Literal(value, meta.dtype, tuple(index.shape))
    return _scattered(builder, meta, x, dim, index, source, "set")


@operator(aten.scatter_add.default)
def _scatter_add(
    builder: Builder, meta: Any, x: Operand, dim: int, index: Operand, source: Operand
) -> Operand:
    return _scattered(builder, meta, x, dim, index, source, "add")


@operator(aten.as_strided_scatter.default, torch.ops.prims.as_strided_scatter.default)
def _as_strided_scatter(
    builder: Builder,
    meta: Any,
    x: Operand,
    source: Operand,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int | None = None,
) -> Operand:
    # As for as_strided: of an array that torch had contiguous.
    places = torch.arange(meta.numel()).as_strided(tuple(size), tuple(stride), offset or 0)
    return _put(builder, meta, x, builder.constant(places), source, "set")


@operator(aten.diagonal_scatter.default)
def _diagonal_scatter(
    builder: Builder,
    meta: Any,
    x: Operand,
    source: Operand,
    offset: int = 0,
    dim1: int = 0,
    dim2: int = 1,
) -> Operand:
    places = torch.arange(meta.numel()).view(meta.shape).diagonal(offset, dim1, dim2)
    return _put(builder, meta, x, builder.constant(places), source, "set")


@operator(aten.diagonal_backward.default)
def _diagonal_backward(
    builder: Builder,
    meta: Any,
    grad: Operand,
    _sizes: Any,
    offset: int,
    dim1: int,
    dim2: int,
) -> Operand:
    zero = Literal(0, meta.dtype, tuple(meta.shape))
    return _diagonal_scatter(builder, meta, zero, grad, offset, dim1, dim2)


@operator(aten.put.default)
def _put_flat(
    builder: Builder,
    meta: Any,
    x: Operand,
    index: Operand,
    values: Operand,
    accumulate: bool = False,
) -> Operand:
    linear = _wrapped(builder, index, prod(x.shape))
    return _put(
        builder,
        meta,
        x,
        linear,
        reshaped(builder, values, tuple(index.shape)),
        "add" if accumulate else "set",
    )


@operator(aten.scatter_reduce.two)
def _scatter_reduce(
    builder: Builder,
    meta: Any,
    x: Operand,
    dim: int,
    index: Operand,
    source: Operand,
    reduce: str,
    *,
    include_self: bool = True,
) -> Operand:
    used = _within(builder, source, index.shape)
    linear = _along(builder, x, dim, index)
    return _collected(builder, meta, x, linear, used, reduce, include_self=include_self)


@operator(aten.index_reduce.default)
def _index_reduce(
    builder: Builder,
    meta: Any,
    x: Operand,
    dim: int,
    index: Operand,
    source: Operand,
    reduce: str,
    *,
    include_self: bool = True,
) -> Operand:
    # Torch lets one of shape () stand for one of one element.
    shape = tuple(x.shape) or (1,)
    lead = [1] * len(shape)
    lead[dim % len(shape)] = prod(index.shape)
    wide = tuple(prod(index.shape) if d == dim % len(shape) else n for d, n in enumerate(shape))
    every = builder.array(reshaped(builder, index, tuple(lead))).expand(wide)
    linear = _along(builder, reshaped(builder, x, shape), dim, every)
    values = reshaped(builder, source, wide)
    return _collected(builder, meta, x, linear, values, reduce, include_self=include_self)


COLLECTIONS = {"sum": ("add", 0), "prod": ("prod", 1), "amax": ("max", -inf), "amin": ("min", inf)}
"""Torch's name of a reduction -> the "put" kernel's, and what it starts from."""


def _collected(
    builder: Builder,
    meta: Any,
    x: Operand,
    linear: Operand,
    values: Operand,
    reduce: str,
    *,
    include_self: bool,
) -> Operand:
    """``x`` with the values joined to what is there already, or to nothing."""
    if not meta.dtype.is_floating_point:
        raise Untranslatable(f'torch.scatter_reduce by "{reduce}" of {meta.dtype}')
    how, neutral = COLLECTIONS["sum" if reduce == "mean" else reduce]
    if not include_self:
        nothing = Literal(neutral, meta.dtype, tuple(linear.shape))
        x = _put(builder, meta, x, linear, nothing, "set")
    joined = _put(builder, meta, x, linear, values, how)
    if reduce != "mean":
        return joined
    base = Literal(int(include_self), meta.dtype, tuple(meta.shape))
    count = _put(builder, meta, base, linear, Literal(1, meta.dtype, tuple(linear.shape)), "add")
    return builder.pointwise("$1 / maximum($2, $3)", joined, count, 1, dtype=meta.dtype)


def _scattered(
    builder: Builder,
    meta: Any,
    x: Operand,
    dim: int,
    index: Operand,
    source: Operand,
    how: str,
) -> Operand:
    used = _within(builder, source, index.shape)
    return _put(builder, meta, x, _along(builder, x, dim, index), used, how)


def _within(builder: Builder, source: Operand, shape: tuple[int, ...]) -> View:
    # The source may be larger than the index: what lies beyond it is not used.
    used = builder.array(source)
    return used.like(used.as_meta()[tuple(slice(size) for size in shape)])


def _take(builder: Builder, x: Operand, linear: Operand, shape: tuple[int, ...]) -> Operand:
    if isinstance(x, Literal):
        return Literal(x.value, x.dtype, shape)
    source = builder.contiguous(x)
    where = builder.contiguous(builder.array(reshaped(builder, linear, shape)))
    return builder.node("take", shape, x.dtype, (source, where))


def _put(
    builder: Builder, meta: Any, x: Operand, linear: Operand, values: Operand, how: str
) -> Operand:
    """``x`` where each value was put: to "set" it, "add" it, or keep the "max", "min" or "prod"."""
    where = builder.contiguous(builder.array(linear))
    shaped = builder.array(builder.convert(values, meta.dtype)).expand(where.shape)
    args = (x, where, builder.contiguous(shaped))
    if isinstance(x, View):
        args = (builder.contiguous(x), *args[1:])
    return builder.node("put", meta.shape, meta.dtype, args, (how,))


def take_rows(builder: Builder, x: Operand, order: Operand) -> Operand:
    """Row ``order[i]`` of each matrix of ``x`` (..., n, k) as row i; ``order`` is (..., n)."""
    return _take(builder, x, _rows(builder, x, order), tuple(x.shape))


def put_rows(builder: Builder, x: Operand, order: Operand) -> Operand:
    """Undo :func:`take_rows`."""
    zero = Literal(0, x.dtype, tuple(x.shape))
    return _put(builder, x, zero, _rows(builder, x, order), x, "set")


def _rows(builder: Builder, x: Operand, order: Operand) -> Operand:
    index = builder.array(order)
    wide = index.like(index.as_meta().unsqueeze(-1)).expand(tuple(x.shape))
    return _along(builder, x, -2, wide)


def _along(builder: Builder, x: Operand, dim: int, index: Operand) -> Operand:
    """Linear indices of ``x[..., index, ...]`` where the other indices are index's own."""
    rank = len(x.shape)
    steps = contiguous_strides(x.shape)
    total: Operand | int = 0
    for d in range(rank):
        if d == dim % rank:
            place: Operand = _wrapped(builder, index, x.shape[d])
        else:
            shape = [1] * rank
            shape[d] = index.shape[d]
            place = builder.constant(torch.arange(index.shape[d]).view(shape))
        total = _plus(builder, total, place, steps[d])
    return _filled(builder, total, tuple(index.shape))


def _linear(builder: Builder, shape: tuple[int, ...], indices: Sequence[Operand | None]) -> Operand:
    """Linear indices, into a contiguous array of ``shape``, of ``x[indices]``.

    Follows torch: where the indexed dimensions are neighbours, the indices' common
    shape stands in their place, else in front.
    """
    every: list[Operand | None] = [*indices, *[None] * (len(shape) - len(indices))]
    given = [d for d, index in enumerate(every) if index is not None]
    for index in every:
        if index is not None and index.dtype == torch.bool:
            raise Untranslatable("indexing with a mask, whose result has no fixed shape")
    common = tuple(torch.broadcast_shapes(*[every[d].shape for d in given]))  # type: ignore[union-attr]
    together = given == list(range(given[0], given[-1] + 1))
    front = given[0] if together else 0
    free = [d for d in range(len(shape)) if d not in given]
    before = [d for d in free if d < front] if together else []
    after = [d for d in free if d not in before]
    result = (*(shape[d] for d in before), *common, *(shape[d] for d in after))
    steps = contiguous_strides(shape)
    total: Operand | int = 0
    for d in range(len(shape)):
        index = every[d]
        lay = [1] * len(result)
        if index is None:
            place_in = (
                before.index(d) if d in before else len(before) + len(common) + after.index(d)
            )
            lay[place_in] = shape[d]
            place: Operand = builder.constant(torch.arange(shape[d]).view(lay))
        else:
            start = len(before) + len(common) - len(index.shape)
            lay[start : start + len(index.shape)] = index.shape
            place = reshaped(builder, _wrapped(builder, index, shape[d]), tuple(lay))
        total = _plus(builder, total, place, steps[d])
    return _filled(builder, total, result)


def _plus(builder: Builder, total: Operand | int, place: Operand, step: int) -> Operand:
    """``total + place * step``; of constants, a constant."""
    parts = [total, place]
    if all(not isinstance(x, View) or x.source.kind == "constant" for x in parts):
        values = [x if isinstance(x, int) else constant_value(x) for x in parts]
        return builder.constant(torch.as_tensor(values[0] + values[1] * step, dtype=torch.int64))
    scaled = builder.pointwise("$1 * $2", place, step, dtype=torch.int64)
    return builder.pointwise("$1 + $2", total, scaled, dtype=torch.int64)


def _wrapped(builder: Builder, index: Operand, size: int) -> Operand:
    """Non-negative indices: torch counts negative ones from the end."""
    if isinstance(index, Literal) or index.source.kind == "constant":
        value = constant_value(index).to(torch.int64)
        return builder.constant(torch.where(value < 0, value + size, value))
    whole = builder.convert(index, torch.int64)
    return builder.pointwise("wrap($1, $2)", whole, size, dtype=torch.int64)


def constant_value(x: Operand) -> torch.Tensor:
    """The tensor that a literal or a view of a constant stands for."""
    if isinstance(x, Literal):
        return torch.full(x.shape, x.value, dtype=x.dtype)
    value = x.source.value
    assert value is not None
    return value.as_strided(x.shape, x.stride, x.offset)


def _filled(builder: Builder, x: Operand | int, shape: tuple[int, ...]) -> Operand:
    if isinstance(x, int):
        return Literal(x, torch.int64, shape)
    return builder.array(x).expand(shape)


def _whole_box(shape: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(0, size, 1) for size in shape]


def reshaped(builder: Builder, x: Operand, shape: tuple[int, ...]) -> Operand:
    """``x`` in another shape, copied if its strides have no such view."""
    if isinstance(x, Literal):
        return Literal(x.value, x.dtype, shape)
    if x.shape == shape:
        return x
    try:
        return x.like(x.as_meta().view(shape))
    except RuntimeError:
        copied = builder.copy(x)
        return copied.like(copied.as_meta().view(shape))


@operator(aten.bucketize.Tensor)
def _bucketize(
    builder: Builder,
    meta: Any,
    x: Operand,
    boundaries: Operand,
    out_int32: bool = False,
    right: bool = False,
) -> Operand:
    edges = builder.contiguous(builder.array(boundaries))
    values = builder.contiguous(builder.array(builder.convert(x, edges.dtype)))
    return builder.node("searchsorted", meta.shape, meta.dtype, (values, edges), (bool(right),))


@operator(aten.searchsorted.Tensor)
def _searchsorted(
    builder: Builder,
    meta: Any,
    edges: Operand,
    x: Operand,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Operand | None = None,
) -> Operand:
    if len(edges.shape) != 1 or sorter is not None:
        raise Untranslatable("aten.searchsorted with more than one row of edges")
    return _bucketize(builder, meta, x, edges, out_int32, right or side == "right")
