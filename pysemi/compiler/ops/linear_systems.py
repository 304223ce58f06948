"""Solutions, factorisations and exponentials of small dense matrices, each entry of a batch.

Torch hands the factors of a matrix from one solve to the next. Where they are the matrix's
own, the next solve factors the matrix again: the systems are small, and a factorisation that
nobody else reads is then not computed at all.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Literal, Node, Operand, View
from pysemi.compiler.ops.indexing import put_rows, reshaped, take_rows
from pysemi.compiler.ops.registry import aten, decomposition, operator
from pysemi.compiler.untranslatable import Untranslatable

__all__: list[str] = []


@operator(aten._linalg_solve_ex.default)
def _solve_ex(
    builder: Builder, meta: Any, a: Operand, b: Operand, *, left: bool = True, **_checks: Any
) -> tuple[Operand, ...]:
    solved = _solve(builder, meta[0], a, b, left=left, transposed=False)
    return solved, *_factors(builder, a), _success(meta[3])


@operator(aten.linalg_lu_factor_ex.default)
def _lu_factor_ex(
    builder: Builder, meta: Any, a: Operand, *, pivot: bool = True, **_checks: Any
) -> tuple[Operand, ...]:
    if not pivot:
        raise Untranslatable("torch.linalg.lu_factor without pivoting")
    return *_factors(builder, a), _success(meta[2])


@operator(aten.linalg_lu_solve.default)
def _lu_solve(
    builder: Builder,
    meta: Any,
    factors: Operand,
    pivots: Operand,
    b: Operand,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> Operand:
    if prod(meta.shape) == 0:
        return Literal(0, meta.dtype, tuple(meta.shape))
    node = _factorisation(pivots)
    if factors == _factors_of(builder, node)[0]:
        matrix = _batched_like(builder, node.args[0], factors.shape)
        return _solve(builder, meta, matrix, b, left=left, transposed=adjoint)
    # The determinant's gradient moves zeros off the diagonal of U.
    if not left:
        adjoint = not adjoint
        b = _transposed(builder, b)
    batch = torch.broadcast_shapes(factors.shape[:-2], b.shape[:-2])
    order = _expanded(builder, _permutation(builder, node, factors.shape), (*batch, b.shape[-2]))
    right = _expanded(builder, b, (*batch, *b.shape[-2:]))
    lower = _triangle(builder, factors, upper=False, unit=True)
    upper = _triangle(builder, factors, upper=True, unit=False)
    if adjoint:
        half = _solve(builder, meta, upper, right, left=True, transposed=True)
        solved = put_rows(
            builder, _solve(builder, meta, lower, half, left=True, transposed=True), order
        )
    else:
        half = _solve(builder, meta, lower, take_rows(builder, right, order), left=True)
        solved = _solve(builder, meta, upper, half, left=True)
    return solved if left else _transposed(builder, solved)


@operator(aten.linalg_inv_ex.default)
def _inv_ex(builder: Builder, meta: Any, a: Operand, **_checks: Any) -> tuple[Operand, ...]:
    identity = builder.constant(torch.eye(a.shape[-1], dtype=a.dtype).expand(a.shape))
    return _solve(builder, meta[0], a, identity), _success(meta[1])


@operator(aten._linalg_check_errors.default)
def _check_errors(_builder: Builder, _meta: Any, *_info: Any, **_names: Any) -> None:
    # A singular matrix gives infinities, which end the solve with an error.
    return None


@decomposition(aten._linalg_det.default)
def _det(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    diagonal, factors, pivots = _signed_diagonal(a)
    return diagonal.prod(-1), factors, pivots


@decomposition(aten._linalg_slogdet.default)
def _slogdet(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    diagonal, factors, pivots = _signed_diagonal(a)
    return diagonal.sign().prod(-1), diagonal.abs().log().sum(-1), factors, pivots


def _signed_diagonal(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The diagonal of U, with a minus where two rows were exchanged; the factors, the pivots.

    Of a contiguous matrix torch factors the transpose, and its gradients count on that.
    """
    seen = a.mT if a.is_contiguous() else a
    factors, pivots, _ = aten.linalg_lu_factor_ex.default(seen)
    stayed = pivots == torch.arange(1, a.shape[-1] + 1, dtype=torch.int32)
    diagonal = factors.diagonal(0, -2, -1)
    return torch.where(stayed, diagonal, -diagonal), factors, pivots


@operator(aten.lu_unpack.default)
def _lu_unpack(
    builder: Builder,
    meta: Any,
    factors: Operand,
    pivots: Operand,
    unpack_data: bool = True,
    unpack_pivots: bool = True,
) -> tuple[Operand, ...]:
    nothing = Literal(0, factors.dtype, (0,))
    permutation: Operand = nothing
    if unpack_pivots:
        order = _permutation(builder, _factorisation(pivots), factors.shape)
        rows = torch.arange(factors.shape[-1]).unsqueeze(-1)
        across = _viewed(builder, order, lambda x: x.unsqueeze(-2))
        same = builder.pointwise(
            "$1 == $2", builder.constant(rows), across, dtype=torch.bool, compute=torch.int64
        )
        permutation = builder.convert(same, factors.dtype)
    if not unpack_data:
        return permutation, nothing, nothing
    lower = _triangle(builder, factors, upper=False, unit=True)
    return permutation, lower, _triangle(builder, factors, upper=True, unit=False)


@operator(aten.linalg_lu.default)
def _lu(builder: Builder, meta: Any, a: Operand, *, pivot: bool = True) -> tuple[Operand, ...]:
    if not pivot:
        raise Untranslatable("torch.linalg.lu without pivoting")
    return _lu_unpack(builder, meta, *_factors(builder, a))


@operator(aten.linalg_cholesky_ex.default)
def _cholesky_ex(
    builder: Builder, meta: Any, a: Operand, *, upper: bool = False, **_checks: Any
) -> tuple[Operand, ...]:
    return _cholesky(builder, meta[0], a, upper), _success(meta[1])


@operator(aten.cholesky.default)
def _cholesky(builder: Builder, meta: Any, a: Operand, upper: bool = False) -> Operand:
    # Torch reads one triangle of a matrix that it takes to be symmetric.
    matrix = _stacked(builder, _transposed(builder, a) if upper else a)
    made = builder.node("factor", matrix.shape, meta.dtype, (matrix,), ("cholesky",))
    lower = _batched_like(builder, made, a.shape)
    return _transposed(builder, lower) if upper else lower


@operator(aten.cholesky_solve.default)
def _cholesky_solve(
    builder: Builder, meta: Any, b: Operand, factor: Operand, upper: bool = False
) -> Operand:
    triangle = _triangle(builder, factor, upper=upper, unit=False)
    half = _solve(builder, meta, triangle, b, transposed=upper)
    return _solve(builder, meta, triangle, half, transposed=not upper)


@operator(aten.cholesky_inverse.default)
def _cholesky_inverse(builder: Builder, meta: Any, factor: Operand, upper: bool = False) -> Operand:
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype).expand(factor.shape)
    return _cholesky_solve(builder, meta, builder.constant(identity), factor, upper)


@operator(aten.linalg_matrix_exp.default)
def _matrix_exp(builder: Builder, meta: Any, a: Operand) -> Operand:
    # Its gradient is a block of the exponential of a matrix twice as large, which torch asks for.
    if prod(meta.shape) == 0:
        return Literal(0, meta.dtype, tuple(meta.shape))
    matrix = _stacked(builder, a)
    made = builder.node("exponential", matrix.shape, meta.dtype, (matrix,))
    return _batched_like(builder, made, a.shape)


@operator(aten.linalg_solve_triangular.default)
def _solve_triangular(
    builder: Builder,
    meta: Any,
    a: Operand,
    b: Operand,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Operand:
    triangle = _triangle(builder, a, upper=upper, unit=unitriangular)
    return _solve(builder, meta, triangle, b, left=left, is_matrix=True)


@operator(aten.triangular_solve.default)
def _old_triangular_solve(
    builder: Builder,
    meta: Any,
    b: Operand,
    a: Operand,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Operand, Operand]:
    triangle = _triangle(builder, a, upper=upper, unit=unitriangular)
    solved = _solve(builder, meta[0], triangle, b, transposed=transpose, is_matrix=True)
    return solved, _expanded(builder, a, tuple(meta[1].shape))


def _solve(
    builder: Builder,
    meta: Any,
    a: Operand,
    b: Operand,
    *,
    left: bool = True,
    transposed: bool = False,
    is_matrix: bool = False,
) -> Operand:
    """Solve A X = B or A' X = B, or those for X A or X A' if not ``left``."""
    is_vector = not is_matrix and tuple(b.shape) == tuple(a.shape[:-1])
    is_vector = is_vector or len(b.shape) == 1
    right = _viewed(builder, b, lambda x: x.unsqueeze(-1)) if is_vector else b
    if not left:
        right, transposed = _transposed(builder, right), not transposed
    batch = tuple(torch.broadcast_shapes(a.shape[:-2], right.shape[:-2]))
    matrix = _stacked(builder, _expanded(builder, a, (*batch, *a.shape[-2:])))
    shape = (*batch, *right.shape[-2:])
    right = _stacked(builder, _expanded(builder, right, shape))
    made = builder.node("solve", right.shape, meta.dtype, (matrix, right), (transposed,))
    solved = _batched_like(builder, made, shape)
    if not left:
        solved = _transposed(builder, solved)
    return _viewed(builder, solved, lambda x: x.squeeze(-1)) if is_vector else solved


def _factors(builder: Builder, a: Operand) -> tuple[Operand, Operand]:
    """L and U in one matrix, and the pivots, as LAPACK has them."""
    if a.shape[-1] != a.shape[-2]:
        raise Untranslatable("the factorisation of a matrix that is not square")
    matrix = _stacked(builder, a)
    n = a.shape[-1]
    made = builder.node("factor", (*matrix.shape[:-2], n + 2, n), a.dtype, (matrix,), ("lu",))
    return _factors_of(builder, made.source, a.shape)


def _factors_of(
    builder: Builder, node: Node, shape: tuple[int, ...] | None = None
) -> tuple[Operand, Operand]:
    """Of the node's array (..., n + 2, n): L and U, then the pivots' row."""
    n = node.shape[-1]
    batch = node.shape[:-2] if shape is None else tuple(shape[:-2])
    packed = _batched_like(builder, node.whole(), (*batch, n + 2, n))
    factors = _viewed(builder, packed, lambda x: x[..., :n, :])
    pivots = _viewed(builder, packed, lambda x: x[..., n, :])
    return factors, builder.convert(pivots, torch.int32)


def _factorisation(pivots: Operand) -> Node:
    """The node that computed these pivots."""
    if isinstance(pivots, View) and pivots.source.kind == "pointwise":
        for node in pivots.source.sources():
            if node.kind == "factor":
                return node
    raise Untranslatable("pivots that are not a factorisation's own")


def _permutation(builder: Builder, node: Node, shape: tuple[int, ...]) -> Operand:
    """Row i of L U is row ``permutation[i]`` of the matrix."""
    n = node.shape[-1]
    packed = _batched_like(builder, node.whole(), (*shape[:-2], n + 2, n))
    last = _viewed(builder, packed, lambda x: x[..., n + 1, :])
    return builder.convert(last, torch.int64)


def _triangle(builder: Builder, a: Operand, *, upper: bool, unit: bool) -> Operand:
    """``a`` with zeros in the other triangle, and ones on the diagonal if ``unit``."""
    whole = torch.ones(a.shape[-2:], dtype=torch.bool)
    mask = whole.triu(int(unit)) if upper else whole.tril(-int(unit))
    rest = torch.eye(a.shape[-1], dtype=a.dtype) * unit
    return builder.pointwise(
        "ifelse($1, $2, $3)",
        builder.constant(mask),
        a,
        builder.constant(rest),
        dtype=a.dtype,
        compute=(torch.bool, a.dtype, a.dtype),
    )


def _success(meta: Any) -> Literal:
    return Literal(0, meta.dtype, tuple(meta.shape))


def _stacked(builder: Builder, x: Operand) -> View:
    """``x`` with at most one batch dimension."""
    view = builder.array(x)
    batch = view.shape[:-2]
    if len(batch) <= 1:
        return view
    return builder.array(reshaped(builder, view, (prod(batch), *view.shape[-2:])))


def _batched_like(builder: Builder, x: Operand, shape: tuple[int, ...]) -> Operand:
    return reshaped(builder, x, (*shape[:-2], *x.shape[-2:]))


def _transposed(builder: Builder, x: Operand) -> Operand:
    return _viewed(builder, x, lambda meta: meta.transpose(-2, -1))


def _expanded(builder: Builder, x: Operand, shape: tuple[int, ...]) -> Operand:
    return builder.array(x).expand(shape)


def _viewed(builder: Builder, x: Operand, look: Any) -> View:
    view = builder.array(x)
    return view.like(look(view.as_meta()))
