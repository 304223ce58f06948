"""Running maxima and running sums of exponentials, in as many steps as a row's length has bits.

Each step joins every element's result with that of the neighbour twice as far away as in the step
before (Hillis and Steele 1986): no loop over the row, on arrays of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition

__all__: list[str] = []


def _distances(size: int) -> Iterator[int]:
    distance = 1
    while distance < size:
        yield distance
        distance *= 2


@decomposition(aten.logcumsumexp.default)
def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    if x.ndim == 0:
        return x.clone()
    for distance in _distances(x.shape[dim]):
        first = x.narrow(dim, 0, distance)
        before = x.narrow(dim, 0, x.shape[dim] - distance)
        here = x.narrow(dim, distance, x.shape[dim] - distance)
        x = torch.cat([first, _log_sum_exp(before, here)], dim)
    return x


def _log_sum_exp(x: Tensor, y: Tensor) -> Tensor:
    largest = torch.maximum(x, y)
    # Equal ones apart: of two infinities the difference is NaN.
    apart = torch.where(x == y, 0.0, x - y).abs()
    return largest + torch.log1p(torch.exp(-apart))


@decomposition(aten.cummax.default)
def _cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _running(x, dim, torch.ge)


@decomposition(aten.cummin.default)
def _cummin(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _running(x, dim, torch.le)


def _running(
    x: Tensor, dim: int, beats: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The best so far and its last place; NaN beats every number."""
    if x.ndim == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    size = x.shape[dim]
    shape = [1] * x.ndim
    shape[dim] = size
    place = torch.arange(size).view(shape).expand(x.shape).contiguous()
    for distance in _distances(size):
        rest = size - distance
        old, new = x.narrow(dim, 0, rest), x.narrow(dim, distance, rest)
        old_place, new_place = place.narrow(dim, 0, rest), place.narrow(dim, distance, rest)
        stays = beats(new, old)
        if x.is_floating_point():
            stays = (stays & ~old.isnan()) | new.isnan()
        best, best_place = torch.where(stays, new, old), torch.where(stays, new_place, old_place)
        x = torch.cat([x.narrow(dim, 0, distance), best], dim)
        place = torch.cat([place.narrow(dim, 0, distance), best_place], dim)
    return x, place
