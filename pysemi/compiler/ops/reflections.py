"""QR factorisations by Householder's reflections, one for each column.

The columns are written out, a dozen kernels each, so matrices of many columns are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition
from pysemi.compiler.untranslatable import Untranslatable

__all__: list[str] = []

MOST = 64
"""Columns: already some eight hundred kernels."""

Reflection = tuple[Tensor, Tensor]
"""v (..., m) and tau (...): the matrix I - tau v v'."""


@decomposition(aten.linalg_qr.default)
def _qr(a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    rows, columns = a.shape[-2:]
    rank = min(rows, columns)
    _refuse_many(rank)
    reflections = []
    for j in range(rank):
        reflections.append(_reflection(a[..., j], j))
        a = _reflected(a, *reflections[-1])
    upper = a if mode == "complete" else a[..., :rank, :]
    if mode == "r":
        return a.new_zeros(0), _by_columns(upper.triu())
    width = rows if mode == "complete" else rank
    return _by_columns(_product(a, reflections, width)), _by_columns(upper.triu())


@decomposition(aten.linalg_householder_product.default)
def _householder_product(a: Tensor, tau: Tensor) -> Tensor:
    return _by_columns(_product(a, _packed(a, tau), a.shape[-1]))


@decomposition(aten.ormqr.default)
def _applied(
    a: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False
) -> Tensor:
    x = other if left else other.mT
    reflections = _packed(a, tau)
    for reflection in reflections if left == transpose else reversed(reflections):
        x = _reflected(x, *reflection)
    return _by_columns(x if left else x.mT)


def _packed(a: Tensor, tau: Tensor) -> list[Reflection]:
    """The reflections whose vectors lie below the diagonal of ``a``, as LAPACK has them."""
    count = tau.shape[-1]
    _refuse_many(count)
    return [(_vector(a[..., j + 1 :, j], j), tau[..., j]) for j in range(count)]


def _refuse_many(columns: int) -> None:
    if columns > MOST:
        raise Untranslatable(f"the QR factorisation of a matrix with {columns} columns")


def _reflection(x: Tensor, j: int) -> Reflection:
    """What makes the elements of ``x`` after the j-th zero, with LAPACK's signs."""
    here, below = x[..., j], x[..., j + 1 :]
    rest = below.square().sum(-1)
    done = rest == 0
    to = -torch.copysign((here.square() + rest).sqrt(), here)
    tau = torch.where(done, 0.0, (to - here) / to)
    return _vector(below / torch.where(done, 1.0, here - to).unsqueeze(-1), j), tau


def _vector(below: Tensor, j: int) -> Tensor:
    lead = below.shape[:-1]
    return torch.cat([below.new_zeros(*lead, j), below.new_ones(*lead, 1), below], -1)


def _reflected(a: Tensor, vector: Tensor, tau: Tensor) -> Tensor:
    row = vector.unsqueeze(-2) @ a
    return a - (tau.unsqueeze(-1) * vector).unsqueeze(-1) * row


def _product(a: Tensor, reflections: Sequence[Reflection], width: int) -> Tensor:
    """The first columns of the reflections' product."""
    q = torch.eye(a.shape[-2], width, dtype=a.dtype).expand(*a.shape[:-1], width)
    for reflection in reversed(reflections):
        q = _reflected(q, *reflection)
    return q


def _by_columns(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT
