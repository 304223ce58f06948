"""Solutions of small dense linear systems, one for each entry of a batch.

Torch hands the factors of the matrix from the forward to the backward solve. Here the
backward solve factors the matrix again: the systems are small, and nothing else has to
know what a factorisation looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Handle, Operand, View
from pysemi.compiler.ops.registry import aten, operator
from pysemi.compiler.untranslatable import Untranslatable

__all__: list[str] = []


@dataclass(frozen=True)
class Factors(Handle):
    """Stands for the factors of a matrix, their pivots, and whether there are any."""

    matrix: Operand


@operator(aten._linalg_solve_ex.default)
def _solve_ex(
    builder: Builder, meta: Any, a: Operand, b: Operand, *, left: bool = True, **_checks: Any
) -> tuple[Any, ...]:
    if not left:
        raise Untranslatable("torch.linalg.solve with left=False")
    return _solve(builder, meta[0], a, b, transposed=False), *[Factors(a)] * 3


@operator(aten.linalg_lu_factor_ex.default)
def _lu_factor_ex(_builder: Builder, _meta: Any, a: Operand, **_checks: Any) -> tuple[Any, ...]:
    return (Factors(a),) * 3


@operator(aten.linalg_lu_solve.default)
def _lu_solve(
    builder: Builder,
    meta: Any,
    factors: Any,
    _pivots: Any,
    b: Operand,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> Operand:
    if not isinstance(factors, Factors) or not left:
        raise Untranslatable("torch.linalg.lu_solve of other factors than the solve's own")
    return _solve(builder, meta, factors.matrix, b, transposed=adjoint)


@operator(aten.linalg_inv_ex.default)
def _inv_ex(builder: Builder, meta: Any, a: Operand, **_checks: Any) -> tuple[Any, ...]:
    identity = builder.constant(torch.eye(a.shape[-1], dtype=a.dtype).expand(a.shape))
    return _solve(builder, meta[0], a, identity, transposed=False), Factors(a)


@operator(aten._linalg_check_errors.default)
def _check_errors(_builder: Builder, _meta: Any, *_info: Any, **_names: Any) -> None:
    # A singular matrix gives infinities, which end the solve with an error.
    return None


def _solve(builder: Builder, meta: Any, a: Operand, b: Operand, *, transposed: bool) -> Operand:
    matrix, right = builder.array(a), builder.array(b)
    is_vector = len(right.shape) == len(matrix.shape) - 1
    if is_vector:
        right = right.like(right.as_meta().unsqueeze(-1))
    if len(matrix.shape) != len(right.shape) or len(matrix.shape) > 3:
        raise Untranslatable("torch.linalg.solve with more than one batch dimension")
    batch = torch.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    matrix = matrix.expand((*batch, *matrix.shape[-2:]))
    right = right.expand((*batch, *right.shape[-2:]))
    solved = builder.node("solve", right.shape, meta.dtype, (matrix, right), (transposed,))
    return _squeezed(solved) if is_vector else solved


def _squeezed(x: View) -> View:
    return x.like(x.as_meta().squeeze(-1))
