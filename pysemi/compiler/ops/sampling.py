"""Images sampled at given places; the gradient is that of torch's own decomposition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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

    with _autograd():
        x, grid = x.detach().requires_grad_(), grid.detach().requires_grad_()
        sampled = grid_sampler_2d(x, grid, interpolation, padding, align_corners)
        products: tuple[Tensor | None, ...] = torch.autograd.grad(
            sampled, (x, grid), grad, allow_unused=True
        )
    by_x, by_grid = products
    if by_grid is None:  # of the nearest pixel
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
