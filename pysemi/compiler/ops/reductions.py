"""Sums and the like over some dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Operand, View
from pysemi.compiler.ops.registry import aten, decomposition, operator

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
    """``x`` reduced over ``dims`` (all, if none are given) by "sum", "prod", "max" or "min"."""
    view = builder.array(builder.convert(x, dtype))
    rank = len(view.shape)
    if rank == 0:
        return view
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


@operator(torch.ops.prims.prod.default)
def _prims_prod(builder: Builder, meta: Any, x: Operand, dims: Any, **_kind: Any) -> Operand:
    return reduced(builder, "prod", x, dims, keepdim=False, dtype=meta.dtype)


@decomposition(aten.max.dim)
def _max(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _extremum(x, torch.amax(x, dim, keepdim=True), dim, keepdim)


@decomposition(aten.min.dim)
def _min(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _extremum(x, torch.amin(x, dim, keepdim=True), dim, keepdim)


@decomposition(aten.argmax.default)
def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return _place(x, torch.max, dim, keepdim)


@decomposition(aten.argmin.default)
def _argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return _place(x, torch.min, dim, keepdim)


def _place(x: Tensor, find: Any, dim: int | None, keepdim: bool) -> Tensor:
    if dim is not None:
        place: Tensor = find(x, dim, keepdim)[1]
        return place
    place = find(x.reshape(-1), 0)[1]
    return place.reshape([1] * x.ndim) if keepdim else place


def _extremum(x: Tensor, value: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """The value, and the first place where it, or NaN, is."""
    if x.ndim == 0:
        return value, torch.zeros((), dtype=torch.int64)
    shape = [1] * x.ndim
    shape[dim] = x.shape[dim]
    found = x == value
    if x.is_floating_point():
        found = found | x.isnan()
    places = torch.where(found, torch.arange(x.shape[dim]).view(shape), x.shape[dim])
    place = places.amin(dim, keepdim=True)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))
