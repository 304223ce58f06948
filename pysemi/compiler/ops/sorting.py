"""Sorting, by counting for each element how many come before it.

Every pair is compared, which is fast for the short rows of a vector field and the same work
whatever the values are; longer rows are refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition
from pysemi.compiler.untranslatable import Untranslatable

__all__: list[str] = []

LONGEST = 1024
"""Elements of a row: at this length a row has a million pairs."""


@decomposition(aten.sort.default)
def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    if x.ndim == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    rank, places = _ranks(x, dim, descending)
    return torch.empty_like(x).scatter(dim, rank, x), places.scatter(dim, rank, places)


@decomposition(aten.sort.stable)
def _stable_sort(
    x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    return _sort(x, dim, descending)


@decomposition(aten.topk.default)
def _topk(
    x: Tensor, k: int, dim: int = -1, largest: bool = True, _sorted: bool = True
) -> tuple[Tensor, Tensor]:
    values, places = _sort(x, dim, largest)
    if x.ndim == 0:
        return values, places
    return values.narrow(dim, 0, k).contiguous(), places.narrow(dim, 0, k).contiguous()


@decomposition(aten.kthvalue.default)
def _kth(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, places = _sort(x, dim)
    if x.ndim == 0:
        return values, places
    value, place = (v.narrow(dim, k - 1, 1).contiguous() for v in (values, places))
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


@decomposition(aten.median.dim)
def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower of the two in the middle; NaN, without a defined place, if one is among them."""
    if x.ndim == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    value, place = _kth(x, (x.shape[dim] + 1) // 2, dim, keepdim)
    if x.is_floating_point():
        value = value.masked_fill(x.isnan().any(dim, keepdim), torch.nan)
    return value, place


@decomposition(aten.median.default)
def _median_of_all(x: Tensor) -> Tensor:
    return _median(x.reshape(-1), 0)[0]


@decomposition(aten.nanmedian.dim)
def _nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower of the two in the middle of those that are not NaN, which come last."""
    if x.ndim == 0 or not x.is_floating_point():
        return _median(x, dim, keepdim)
    values, places = _sort(x, dim)
    counted = x.isnan().logical_not().to(torch.int64).sum(dim, keepdim=True)
    middle = ((counted - 1) // 2).clamp(min=0)
    value, place = (v.gather(dim, middle) for v in (values, places))
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


@decomposition(aten.nanmedian.default)
def _nanmedian_of_all(x: Tensor) -> Tensor:
    return _nanmedian(x.reshape(-1), 0)[0]


def _ranks(x: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    """Where each element goes, and where it is; equal ones stay in order, NaN is the largest."""
    n = x.shape[dim]
    if n > LONGEST:
        raise Untranslatable(f"sorting rows of {n} elements")
    rows = x.movedim(dim, -1)
    mine, other = rows.unsqueeze(-1), rows.unsqueeze(-2)
    if x.is_floating_point():
        less = (other < mine) | (mine.isnan() & ~other.isnan())
        more = (other > mine) | (other.isnan() & ~mine.isnan())
    else:
        less, more = other < mine, other > mine
    first, second = (more, less) if descending else (less, more)
    place = torch.arange(n)
    tied = ~(first | second) & (place < place.unsqueeze(-1))
    rank = (first | tied).to(torch.int64).sum(-1)
    shape = [1] * x.ndim
    shape[dim] = n
    return rank.movedim(-1, dim), place.view(shape).expand(x.shape).contiguous()
