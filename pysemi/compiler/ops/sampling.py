"""Images and volumes sampled at given places; the gradient is that of a decomposition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition

__all__: list[str] = []


@decomposition(aten.grid_sampler_2d_backward.default)
def _grid_sampler_2d_backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    interpolation: int,
    padding: int,
    align_corners: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    from torch._decomp.decompositions import grid_sampler_2d

    how = (interpolation, padding, align_corners)
    return _pulled_back(lambda x, grid: grid_sampler_2d(x, grid, *how), grad, x, grid, wanted)


@decomposition(aten.grid_sampler_3d.default)
def _grid_sampler_3d(
    x: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool
) -> Tensor:
    return _sampled_volumes(x, grid, interpolation, padding, align_corners)


@decomposition(aten.grid_sampler_3d_backward.default)
def _grid_sampler_3d_backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    interpolation: int,
    padding: int,
    align_corners: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    how = (interpolation, padding, align_corners)
    return _pulled_back(lambda x, grid: _sampled_volumes(x, grid, *how), grad, x, grid, wanted)


NEAREST = 1
BORDER, REFLECTION = 1, 2
"""Torch's numbers for ways to interpolate, and for what is outside."""


def _sampled_volumes(
    x: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool
) -> Tensor:
    sizes = x.shape[2:]
    # The grid counts from the last dimension.
    places = [
        _coordinate(grid[..., -1 - dim], size, padding, align_corners)
        for dim, size in enumerate(sizes)
    ]
    if interpolation == NEAREST:
        corners = [[(place.round(), torch.ones_like(place))] for place in places]
    else:
        below = [place.floor() for place in places]
        corners = [
            [(low, 1 - (place - low)), (low + 1, place - low)]
            for low, place in zip(below, places, strict=True)
        ]
    flat, result = x.flatten(2), torch.zeros((), dtype=x.dtype)
    for corner in product(*corners):
        inside = torch.ones((), dtype=torch.bool)
        for (place, _), size in zip(corner, sizes, strict=True):
            inside = inside & (place >= 0) & (place < size)
        index, weight = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=x.dtype)
        for (place, share), size in zip(corner, sizes, strict=True):
            # What is outside, NaN too, is no integer yet.
            index = index * size + torch.where(inside, place, 0.0).to(torch.int64)
            weight = weight * share
        values = flat.gather(2, index.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1))
        weight = torch.where(inside, weight, 0.0).unsqueeze(1)
        result = result + values.view(*x.shape[:2], *grid.shape[1:-1]) * weight
    return result


def _coordinate(place: Tensor, size: int, padding: int, align_corners: bool) -> Tensor:
    """From -1 ... 1 to the number of a voxel, brought inside if ``padding`` asks for it."""
    span = size - 1 if align_corners else size
    place = place * (span / 2) + (size - 1) / 2
    if padding == REFLECTION:
        low = 0.0 if align_corners else -0.5
        if span == 0:
            place = torch.zeros_like(place)
        else:
            beyond = (place - low).abs()
            extra, turns = beyond.fmod(span), (beyond / span).floor()
            place = torch.where(turns.fmod(2) == 0, extra, span - extra) + low
    return place if padding not in (BORDER, REFLECTION) else place.clamp(0, size - 1)


def _pulled_back(
    function: Callable[[Tensor, Tensor], Tensor],
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    with _autograd():
        x, grid = x.detach().requires_grad_(), grid.detach().requires_grad_()
        sampled = function(x, grid)
        products: tuple[Tensor | None, ...] = torch.autograd.grad(
            sampled, (x, grid), grad, allow_unused=True
        )
    by_x, by_grid = products
    if by_grid is None:  # of the nearest element
        by_grid = torch.zeros_like(grid)
    return (by_x if wanted[0] else None), (by_grid if wanted[1] else None)


@contextmanager
def _autograd() -> Iterator[None]:
    """Differentiate inside of an operator, where torch has already left autograd behind."""
    keys = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView)
    excluded = [torch._C._dispatch_tls_is_dispatch_key_excluded(key) for key in keys]
    try:
        for key in keys:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
        with torch.enable_grad():
            yield
    finally:
        for key, before in zip(keys, excluded, strict=True):
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, before)
