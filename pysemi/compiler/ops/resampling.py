"""Interpolation, average pooling, padding by the border: linear along each dimension.

Each is a product with a constant matrix along each dimension, which torch itself makes: the
one-dimensional operator, applied to the unit vectors. Its gradient is the transposed matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition, literal_tensor

__all__ = ["along"]

Matrix = Callable[[Tensor], Tensor]
"""Units (n, 1, n) -> results (n, 1, m): row i is what unit i contributes to."""


def along(x: Tensor, maps: Sequence[Matrix | None], sizes: Sequence[int], *, back: bool) -> Tensor:
    """Apply one map to each of the last dimensions.

    ``sizes`` are those of the maps' arguments. With ``back``, the transposed maps are applied.
    """
    dtype = x.dtype
    for index, (make, size) in enumerate(zip(maps, sizes, strict=True)):
        if make is None:
            continue

        def matrix(make: Matrix = make, size: int = size) -> Tensor:
            made = make(torch.eye(size, dtype=dtype).unsqueeze(1)).squeeze(1)
            return (made.mT if back else made).contiguous()

        x = _times(x, literal_tensor(matrix), index - len(maps))
    return x


def _times(x: Tensor, matrix: Tensor, dim: int) -> Tensor:
    shape = x.shape
    if dim == -1:
        rows = x.reshape(shape[:-1].numel(), shape[-1])
        return (rows @ matrix).view(*shape[:-1], matrix.shape[1])
    lead, trail = shape[:dim], shape[dim + 1 :]
    flat = x.reshape(lead.numel(), shape[dim], trail.numel())
    result = matrix.mT.expand(lead.numel(), *matrix.mT.shape).bmm(flat)
    return result.view(*lead, matrix.shape[1], *trail)


def _nearest(kind: object) -> Callable[..., Matrix]:
    def make(out: int, scale: float | None) -> Matrix:
        return lambda unit: kind(unit, [out], scale)  # type: ignore[operator]

    return make


def _linear(out: int, align_corners: bool, scale: float | None) -> Matrix:
    return lambda unit: aten.upsample_linear1d.default(unit, [out], align_corners, scale)


def _cubic(out: int, align_corners: bool, scale: float | None) -> Matrix:
    # Of an image of one row: the weights of its copies above and below add up to one.
    return lambda unit: aten.upsample_bicubic2d.default(
        unit.unsqueeze(2), [1, out], align_corners, None, scale
    ).squeeze(2)


def _smoothed(name: str) -> Callable[..., Matrix]:
    kind = getattr(aten, f"_upsample_{name}2d_aa").default

    def make(out: int, align_corners: bool, scale: float | None) -> Matrix:
        return lambda unit: kind(unit.unsqueeze(2), [1, out], align_corners, None, scale).squeeze(2)

    return make


def _scales(given: Sequence[float | None], spatial: int) -> list[float | None]:
    return [*given, *[None] * (spatial - len(given))]


def _upsampling(name: str, spatial: int, kind: Callable[..., Matrix], *, aligns: bool) -> None:
    def maps(out: Sequence[int], rest: Sequence[object]) -> list[Matrix | None]:
        flags, scales = (rest[:1], rest[1:]) if aligns else ([], rest)
        every = _scales(scales, spatial)  # type: ignore[arg-type]
        return [kind(n, *flags, scale) for n, scale in zip(out, every, strict=True)]

    @decomposition(getattr(aten, name).default)
    def forward(x: Tensor, out: Sequence[int], *rest: object) -> Tensor:
        return along(x, maps(out, rest), x.shape[2:], back=False)

    @decomposition(getattr(aten, f"{name}_backward").default)
    def backward(grad: Tensor, out: Sequence[int], sizes: Sequence[int], *rest: object) -> Tensor:
        return along(grad, maps(out, rest), sizes[2:], back=True)


for _spatial, _name in ((1, "linear1d"), (2, "bilinear2d"), (3, "trilinear3d")):
    _upsampling(f"upsample_{_name}", _spatial, _linear, aligns=True)
_upsampling("upsample_bicubic2d", 2, _cubic, aligns=True)
for _name in ("bilinear", "bicubic"):
    _upsampling(f"_upsample_{_name}2d_aa", 2, _smoothed(_name), aligns=True)
for _spatial in (1, 2, 3):
    for _name in (f"upsample_nearest{_spatial}d", f"_upsample_nearest_exact{_spatial}d"):
        _kind = getattr(aten, _name.replace(f"{_spatial}d", "1d")).default
        _upsampling(_name, _spatial, _nearest(_kind), aligns=False)


def _averages(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
    spatial: int,
) -> list[Matrix]:
    def each(value: Sequence[int]) -> Sequence[int]:
        return value if len(value) == spatial else [value[0]] * spatial

    kernel = each(kernel)
    stride = each(stride) if len(stride) else kernel

    def make(k: int, s: int, p: int, first: bool) -> Matrix:
        if divisor is None:
            return lambda unit: F.avg_pool1d(unit, k, s, p, ceil_mode, count_include_pad)
        over = divisor if first else 1
        return lambda unit: (
            F.avg_pool2d(unit.unsqueeze(2), (1, k), (1, s), (0, p), ceil_mode, True, over)
        ).squeeze(2)

    return [
        make(k, s, p, dim == 0)
        for dim, (k, s, p) in enumerate(zip(kernel, stride, each(padding), strict=True))
    ]


def _average_pooling(spatial: int) -> None:
    @decomposition(getattr(aten, f"avg_pool{spatial}d").default)
    def forward(
        x: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Tensor:
        maps = _averages(kernel, stride, padding, ceil_mode, count_include_pad, divisor, spatial)
        return along(x, maps, x.shape[-spatial:], back=False)

    @decomposition(getattr(aten, f"avg_pool{spatial}d_backward").default)
    def backward(
        grad: Tensor,
        x: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor: int | None,
    ) -> Tensor:
        maps = _averages(kernel, stride, padding, ceil_mode, count_include_pad, divisor, spatial)
        return along(grad, maps, x.shape[-spatial:], back=True)


def _adaptive_averages(out: Sequence[int]) -> list[Matrix]:
    def make(n: int) -> Matrix:
        return lambda unit: F.adaptive_avg_pool1d(unit, n)

    return [make(n) for n in out]


def _adaptive_average_pooling(spatial: int) -> None:
    @decomposition(getattr(aten, f"_adaptive_avg_pool{spatial}d").default)
    def forward(x: Tensor, out: Sequence[int]) -> Tensor:
        return along(x, _adaptive_averages(out), x.shape[-spatial:], back=False)

    @decomposition(getattr(aten, f"_adaptive_avg_pool{spatial}d_backward").default)
    def backward(grad: Tensor, x: Tensor) -> Tensor:
        maps = _adaptive_averages(grad.shape[-spatial:])
        return along(grad, maps, x.shape[-spatial:], back=True)


for _spatial in (2, 3):
    _average_pooling(_spatial)
    _adaptive_average_pooling(_spatial)


def _border_padding(spatial: int) -> None:
    @decomposition(getattr(aten, f"replication_pad{spatial}d_backward").default)
    def backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
        def make(before: int, after: int) -> Matrix:
            return lambda unit: F.pad(unit, (before, after), mode="replicate")

        maps = [make(padding[2 * d], padding[2 * d + 1]) for d in reversed(range(spatial))]
        return along(grad, maps, x.shape[-spatial:], back=True)


for _spatial in (1, 2, 3):
    _border_padding(_spatial)


@decomposition(aten.cumsum.default)
def _cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    if x.ndim == 0 or not x.is_floating_point():
        return torch._refs.cumsum(x, dim)
    trailing = x.ndim - dim % x.ndim
    maps: list[Matrix | None] = [lambda unit: unit.cumsum(-1), *[None] * (trailing - 1)]
    return along(x, maps, x.shape[x.ndim - trailing :], back=False)
