"""Normalisation layers, taken apart into sums and pointwise operations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Operand
from pysemi.compiler.ops.reductions import reduced
from pysemi.compiler.ops.registry import aten, decomposition, operator

__all__: list[str] = []


@operator(aten.native_layer_norm.default)
def _layer_norm(
    builder: Builder,
    meta: Any,
    x: Operand,
    shape: Sequence[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> tuple[Operand, Operand, Operand]:
    dtype = meta[0].dtype
    dims = range(len(x.shape) - len(shape), len(x.shape))
    mean = _mean(builder, x, dims, dtype)
    deviation = builder.pointwise("$1 - $2", x, mean, dtype=dtype)
    square = builder.pointwise("$1 * $1", deviation, dtype=dtype)
    variance = _mean(builder, square, dims, dtype)
    scale = builder.pointwise("inv(sqrt($1 + $2))", variance, eps, dtype=dtype)
    out = builder.pointwise("$1 * $2", deviation, scale, dtype=dtype)
    if weight is not None:
        out = builder.pointwise("$1 * $2", out, weight, dtype=dtype)
    if bias is not None:
        out = builder.pointwise("$1 + $2", out, bias, dtype=dtype)
    return out, mean, scale


def _mean(builder: Builder, x: Operand, dims: Sequence[int], dtype: Any) -> Operand:
    total = reduced(builder, "sum", x, list(dims), keepdim=True, dtype=dtype)
    count = prod(x.shape[d] for d in dims)
    return builder.pointwise("$1 / $2", total, count, dtype=dtype)


@decomposition(aten._weight_norm_interface.default)
def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    norms = (v * v).sum(_others(v, dim), keepdim=True).sqrt()
    return v * (g / norms), norms


@decomposition(aten._weight_norm_interface_backward.default)
def _weight_norm_backward(
    grad: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    along = (grad * v).sum(_others(v, dim), keepdim=True)
    return g / norms * (grad - v * along / (norms * norms)), along / norms


def _others(v: Tensor, dim: int) -> list[int]:
    return [d for d in range(v.ndim) if d != dim % v.ndim]
