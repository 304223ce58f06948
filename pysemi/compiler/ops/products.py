"""Matrix products. Transposes are views, and reach the kernel as such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Literal, Operand, View
from pysemi.compiler.ops.reductions import reduced
from pysemi.compiler.ops.registry import aten, decomposition, operator

__all__: list[str] = []


def _product(builder: Builder, meta: Any, a: Operand, b: Operand) -> View:
    """(..., m, k) times (..., k, n), with at most one leading dimension."""
    for uniform, other, dim in ((a, b, -2), (b, a, -1)):
        if isinstance(uniform, Literal):  # all rows (or columns) are the other's sum
            total = reduced(builder, "sum", other, (dim,), keepdim=True, dtype=meta.dtype)
            scaled = builder.pointwise("$1 * $2", total, uniform.value, dtype=meta.dtype)
            return builder.array(scaled).expand(tuple(meta.shape))
    first, second = (_for_blas(builder, x) for x in (a, b))
    if first.shape[-1] == 1:  # an outer product is pointwise, and fuses as such
        result = builder.pointwise("$1 * $2", first, second, dtype=meta.dtype)
        return builder.array(result)
    return _matmul(builder, meta.shape, meta.dtype, first, second)


def _matmul(builder: Builder, shape: Sequence[int], dtype: torch.dtype, a: View, b: View) -> View:
    if 0 in (a.shape[-1], *shape):  # sums of nothing, which BLAS has no layout for
        return builder.array(Literal(0.0, dtype, tuple(shape)))
    return builder.node("matmul", shape, dtype, (a, b))


def _for_blas(builder: Builder, x: Operand) -> View:
    """``x``, copied if BLAS could not read it: one of its last two strides has to be 1."""
    view = builder.array(x)
    (rows, down), (cols, across) = zip(view.shape[-2:], view.stride[-2:], strict=True)
    by_rows = across == 1 or cols == 1
    by_cols = down == 1 or rows == 1
    if by_rows and (rows == 1 or down >= cols):
        return view
    if by_cols and (cols == 1 or across >= rows):
        return view
    return builder.copy(view)


@operator(aten.mm.default, aten.bmm.default)
def _mm(builder: Builder, meta: Any, a: Operand, b: Operand) -> Operand:
    return _product(builder, meta, a, b)


@operator(aten.addmm.default, aten.baddbmm.default)
def _addmm(
    builder: Builder, meta: Any, c: Operand, a: Operand, b: Operand, beta: Any = 1, alpha: Any = 1
) -> Operand:
    # The addition stays a pointwise node, so that a bias fuses with what follows it.
    product: Operand = _product(builder, meta, a, b)
    if alpha != 1:
        product = builder.pointwise("$1 * $2", product, alpha, dtype=meta.dtype)
    if beta != 1:
        c = builder.pointwise("$1 * $2", c, beta, dtype=meta.dtype)
    return builder.pointwise("$1 + $2", product, c, dtype=meta.dtype)


@operator(aten.mv.default)
def _mv(builder: Builder, meta: Any, a: Operand, x: Operand) -> Operand:
    vector = builder.array(x)
    column = vector.like(vector.as_meta().unsqueeze(1))
    product = _column_product(builder, meta, _for_blas(builder, a), column)
    return product.like(product.as_meta().squeeze(1))


def _column_product(builder: Builder, meta: Any, a: View, column: View) -> View:
    return _matmul(builder, (a.shape[0], 1), meta.dtype, a, column)


@operator(aten.dot.default, aten.vdot.default)
def _dot(builder: Builder, meta: Any, x: Operand, y: Operand) -> Operand:
    first, second = (builder.array(v) for v in (x, y))
    row = first.like(first.as_meta().unsqueeze(0))
    column = second.like(second.as_meta().unsqueeze(1))
    product = _column_product(builder, meta, row, column)
    return product.like(product.as_meta().squeeze(1).squeeze(0))


@decomposition(aten.addbmm.default)
def _addbmm(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return torch.add(c * beta, a.bmm(b).sum(0), alpha=alpha)


@decomposition(aten._trilinear.default)
def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    _unroll_dim: int = 1,
) -> Tensor:
    for dim in expand_a:
        a = a.unsqueeze(dim)
    for dim in expand_b:
        b = b.unsqueeze(dim)
    for dim in expand_c:
        c = c.unsqueeze(dim)
    return (a * b * c).sum(list(summed))
