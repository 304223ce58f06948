"""Maxima over windows. Averages are linear, and in ``resampling``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysemi.compiler.ops.convolutions import each_dimension, windows
from pysemi.compiler.ops.registry import aten, decomposition

__all__: list[str] = []


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    spatial: int,
) -> tuple[Tensor, Tensor]:
    kernel = each_dimension(kernel, spatial)
    stride = each_dimension(stride, spatial) if len(stride) else kernel
    padding, dilation = each_dimension(padding, spatial), each_dimension(dilation, spatial)
    sizes = x.shape[-spatial:]
    out = [
        _positions(*given, ceil_mode)
        for given in zip(sizes, kernel, stride, padding, dilation, strict=True)
    ]
    seen = windows(x, kernel, stride, dilation, padding, out, -torch.inf)
    seen = seen.flatten(-spatial)
    largest, within = torch.max(seen, dim=-1)
    # From the place in the window to that in x.
    index = torch.zeros((), dtype=torch.int64)
    for dim in range(spatial):
        inner = 1
        for k in kernel[dim + 1 :]:
            inner *= k
        step = within // inner % kernel[dim] * dilation[dim]
        shape = [1] * spatial
        shape[dim] = out[dim]
        start = (torch.arange(out[dim]) * stride[dim] - padding[dim]).view(shape)
        index = index * sizes[dim] + (start + step)
    return largest, index


def _positions(size: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
    span = size + 2 * p - d * (k - 1) - 1
    count = (-(-span // s) if ceil_mode else span // s) + 1
    # The last window has to begin inside of x or of what precedes it.
    return count - 1 if ceil_mode and (count - 1) * s >= size + p else count


@decomposition(aten.max_pool2d_with_indices.default)
def _max_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    return _max_pool(x, kernel, stride, padding, dilation, ceil_mode, 2)


@decomposition(aten.max_pool3d_with_indices.default)
def _max_pool3d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    return _max_pool(x, kernel, stride, padding, dilation, ceil_mode, 3)


def _adaptive_max_pool(x: Tensor, out: Sequence[int], spatial: int) -> tuple[Tensor, Tensor]:
    sizes = x.shape[-spatial:]
    index = torch.zeros((), dtype=torch.int64)
    used = torch.ones((), dtype=torch.bool)
    for dim, (size, n) in enumerate(zip(sizes, out, strict=True)):
        places, within = _adaptive_windows(size, n)
        shape = [1] * (2 * spatial)
        shape[dim], shape[spatial + dim] = places.shape
        places, within = places.view(shape), within.view(shape)
        index, used = index * size + places, used & within
    flat = x.reshape(*x.shape[:-spatial], sizes.numel())
    seen = flat[..., index].masked_fill(~used, -torch.inf).flatten(-spatial)
    largest, chosen = torch.max(seen, dim=-1, keepdim=True)
    every = index.flatten(-spatial).expand(seen.shape)
    return largest.squeeze(-1), every.gather(-1, chosen).squeeze(-1)


def _adaptive_windows(size: int, n: int) -> tuple[Tensor, Tensor]:
    """The places in each of ``n`` windows, as many for each, and whether they belong to it."""
    bounds = [(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
    longest = max((stop - start for start, stop in bounds), default=0)
    places = [[min(start + k, size - 1) for k in range(longest)] for start, _ in bounds]
    within = [[start + k < stop for k in range(longest)] for start, stop in bounds]
    shape = (n, longest)
    return torch.tensor(places, dtype=torch.int64).view(shape), torch.tensor(within).view(shape)


@decomposition(aten.adaptive_max_pool2d.default)
def _adaptive_max_pool2d(x: Tensor, out: Sequence[int]) -> tuple[Tensor, Tensor]:
    return _adaptive_max_pool(x, out, 2)


@decomposition(aten.adaptive_max_pool3d.default)
def _adaptive_max_pool3d(x: Tensor, out: Sequence[int]) -> tuple[Tensor, Tensor]:
    return _adaptive_max_pool(x, out, 3)


@decomposition(
    aten.max_pool2d_with_indices_backward.default, aten.adaptive_max_pool2d_backward.default
)
def _max_pool2d_backward(grad: Tensor, x: Tensor, *geometry_and_indices: object) -> Tensor:
    return _put_back(grad, x, geometry_and_indices[-1], 2)


@decomposition(
    aten.max_pool3d_with_indices_backward.default, aten.adaptive_max_pool3d_backward.default
)
def _max_pool3d_backward(grad: Tensor, x: Tensor, *geometry_and_indices: object) -> Tensor:
    return _put_back(grad, x, geometry_and_indices[-1], 3)


def _put_back(grad: Tensor, x: Tensor, indices: object, spatial: int) -> Tensor:
    assert isinstance(indices, Tensor)
    flat = x.new_zeros((*x.shape[:-spatial], x.shape[-spatial:].numel()))
    put = flat.scatter_add(-1, indices.flatten(-spatial), grad.flatten(-spatial))
    return put.reshape(x.shape)
