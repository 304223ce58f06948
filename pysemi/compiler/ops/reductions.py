"""Sums and the like over some dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Operand, View
from pysemi.compiler.ops.registry import aten, operator

__all__ = ["reduced"]


def reduced(
    builder: Builder,
    name: str,
    x: Operand,
    dims: Sequence[int] | None,
    *,
    keepdim: bool,
    dtype: Any,
) -> Operand:
    """``x`` reduced over ``dims`` (all, if none are given) by "sum", "max" or "min"."""
    view = builder.array(builder.convert(x, dtype))
    rank = len(view.shape)
    over = sorted({d % rank for d in dims} if dims else set(range(rank)))
    over = [d for d in over if view.shape[d] != 1]
    kept = tuple(1 if d in over else size for d, size in enumerate(view.shape))
    result: View = view
    if over:
        result = builder.node("reduce", kept, dtype, (view,), (name, tuple(over)))
    if keepdim:
        return result
    gone = {d % rank for d in dims} if dims else set(range(rank))
    shape = tuple(size for d, size in enumerate(kept) if d not in gone)
    meta = result.as_meta()
    return result.like(meta.squeeze(tuple(gone)) if gone else meta.view(shape))


@operator(aten.sum.dim_IntList)
def _sum(
    builder: Builder,
    meta: Any,
    x: Operand,
    dims: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
) -> Operand:
    return reduced(builder, "sum", x, dims, keepdim=keepdim, dtype=meta.dtype)


@operator(aten.sum.default)
def _sum_all(builder: Builder, meta: Any, x: Operand, dtype: Any = None) -> Operand:
    return reduced(builder, "sum", x, None, keepdim=False, dtype=meta.dtype)


@operator(aten.mean.dim)
def _mean(
    builder: Builder,
    meta: Any,
    x: Operand,
    dims: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
) -> Operand:
    total = reduced(builder, "sum", x, dims, keepdim=keepdim, dtype=meta.dtype)
    count = prod(x.shape) // max(prod(meta.shape), 1)
    return builder.pointwise("$1 / $2", total, count, dtype=meta.dtype)


@operator(aten.mean.default)
def _mean_all(builder: Builder, meta: Any, x: Operand, dtype: Any = None) -> Operand:
    return _mean(builder, meta, x, None)


@operator(aten.amax.default)
def _amax(
    builder: Builder, meta: Any, x: Operand, dims: Any = (), keepdim: bool = False
) -> Operand:
    return reduced(builder, "max", x, dims, keepdim=keepdim, dtype=meta.dtype)


@operator(aten.amin.default)
def _amin(
    builder: Builder, meta: Any, x: Operand, dims: Any = (), keepdim: bool = False
) -> Operand:
    return reduced(builder, "min", x, dims, keepdim=keepdim, dtype=meta.dtype)


@operator(aten.any.default)
def _any_all(builder: Builder, meta: Any, x: Operand) -> Operand:
    return reduced(
        builder, "max", builder.convert(x, torch.bool), None, keepdim=False, dtype=meta.dtype
    )


@operator(aten.any.dim)
def _any(builder: Builder, meta: Any, x: Operand, dim: int, keepdim: bool = False) -> Operand:
    return reduced(
        builder, "max", builder.convert(x, torch.bool), (dim,), keepdim=keepdim, dtype=meta.dtype
    )


@operator(torch.ops.prims.sum.default)
def _prims_sum(builder: Builder, meta: Any, x: Operand, dims: Any, **_kind: Any) -> Operand:
    return reduced(builder, "sum", x, dims, keepdim=False, dtype=meta.dtype)


@operator(torch.ops.prims.var.default)
def _prims_var(
    builder: Builder, meta: Any, x: Operand, dims: Any, correction: float = 1, **_kind: Any
) -> Operand:
    count = prod(x.shape) // max(prod(meta.shape), 1)
    total = reduced(builder, "sum", x, dims, keepdim=True, dtype=meta.dtype)
    mean = builder.pointwise("$1 / $2", total, count, dtype=meta.dtype)
    deviation = builder.pointwise("$1 - $2", x, mean, dtype=meta.dtype)
    square = builder.pointwise("$1 * $1", deviation, dtype=meta.dtype)
    squares = reduced(builder, "sum", square, dims, keepdim=False, dtype=meta.dtype)
    return builder.pointwise("$1 / $2", squares, count - correction, dtype=meta.dtype)


@operator(aten.max.default)
def _max_all(builder: Builder, meta: Any, x: Operand) -> Operand:
    return reduced(builder, "max", x, None, keepdim=False, dtype=meta.dtype)


@operator(aten.min.default)
def _min_all(builder: Builder, meta: Any, x: Operand) -> Operand:
    return reduced(builder, "min", x, None, keepdim=False, dtype=meta.dtype)
