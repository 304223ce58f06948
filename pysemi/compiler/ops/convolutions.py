"""Convolutions of 1 to 3 dimensions as matrix products.

The columns that a product needs are overlapping windows of the padded input: one copy of a
strided view. The batch lies along the columns, so that each group is one large product, and
the gradient with respect to the weight uses the same columns again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition

__all__ = ["each_dimension", "windows"]


def windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    before: Sequence[int],
    out: Sequence[int],
    fill: float = 0.0,
) -> Tensor:
    """Windows of the last dimensions of ``x``: a view of shape (..., *out, *kernel).

    ``before`` elements of value ``fill`` precede ``x`` (fewer than none: it is cut), and as many
    follow as the last of the ``out`` windows needs.
    """
    spatial = len(kernel)
    pad: list[int] = []
    for size, k, s, d, b, n in reversed(
        list(zip(x.shape[-spatial:], kernel, stride, dilation, before, out, strict=True))
    ):
        pad += [b, (n - 1) * s + d * (k - 1) + 1 - b - size]
    # Cutting alone keeps the strides, whatever they are.
    x = aten.constant_pad_nd.default(x, pad, fill).contiguous() if any(pad) else x.contiguous()
    lead, steps = x.stride()[:-spatial], x.stride()[-spatial:]
    apart = [a * s for a, s in zip(steps, stride, strict=True)]
    within = [a * d for a, d in zip(steps, dilation, strict=True)]
    return x.as_strided((*x.shape[:-spatial], *out, *kernel), (*lead, *apart, *within))


@decomposition(aten.convolution.default)
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    kernel = weight.shape[2:]
    spatial = len(kernel)
    stride, padding, dilation = (each_dimension(v, spatial) for v in (stride, padding, dilation))
    if transposed:
        extra = each_dimension(output_padding, spatial)
        sizes = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
            for n, s, p, d, k, e in zip(
                x.shape[2:], stride, padding, dilation, kernel, extra, strict=True
            )
        ]
        result = _to_input(x, weight, sizes, stride, padding, dilation, groups)
    else:
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
        ]
        result = _correlate(x, weight, sizes, stride, padding, dilation, groups)
    return result if bias is None else result + bias.view(-1, *[1] * spatial)


@decomposition(aten.convolution_backward.default)
def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    kernel = weight.shape[2:]
    stride, padding, dilation = (
        each_dimension(v, len(kernel)) for v in (stride, padding, dilation)
    )
    by_x = by_weight = by_bias = None
    if wanted[0] and transposed:
        by_x = _correlate(grad, weight, x.shape[2:], stride, padding, dilation, groups)
    elif wanted[0]:
        by_x = _to_input(grad, weight, x.shape[2:], stride, padding, dilation, groups)
    if wanted[1]:
        seen, factor = (grad, x) if transposed else (x, grad)
        columns = _columns(seen, factor.shape[2:], kernel, stride, padding, dilation, groups)
        by_weight = torch.bmm(_rows(factor, groups), columns.mT).reshape(weight.shape)
    if wanted[2]:
        by_bias = grad.sum([0, *range(2, grad.ndim)])
    return by_x, by_weight, by_bias


def each_dimension(value: Sequence[int], spatial: int) -> Sequence[int]:
    """One number for each dimension, where torch may have been given one for all."""
    return value if len(value) == spatial else [value[0]] * spatial


def _columns(
    x: Tensor,
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The windows of ``x`` as (groups, channels of one times kernel, batch times positions)."""
    seen = windows(x, kernel, stride, dilation, before, out)
    spatial = len(kernel)
    n, c = x.shape[:2]
    order = (1, *range(2 + spatial, 2 + 2 * spatial), 0, *range(2, 2 + spatial))
    return seen.permute(order).reshape(groups, c // groups * prod(kernel), n * prod(out))


def _rows(y: Tensor, groups: int) -> Tensor:
    """Results (batch, channels, *positions) as (groups, channels of one, batch times positions)."""
    return y.transpose(0, 1).reshape(groups, y.shape[1] // groups, -1)


def _results(rows: Tensor, n: int, out: Sequence[int]) -> Tensor:
    """Undo :func:`_rows`; the compiler leaves out that the result is made contiguous."""
    channels = rows.shape[0] * rows.shape[1]
    return rows.reshape(channels, n, *out).transpose(0, 1).contiguous()


def _correlate(
    x: Tensor,
    weight: Tensor,
    out: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    columns = _columns(x, out, weight.shape[2:], stride, padding, dilation, groups)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    return _results(torch.bmm(matrix, columns), x.shape[0], out)


def _to_input(
    y: Tensor,
    weight: Tensor,
    sizes: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The transpose of :func:`_correlate`, as a map of its results ``y`` to an input.

    Position i of the input meets position l of the result where i + padding = stride l +
    dilation k. So the inputs with the same remainder r of i + padding by the stride need the
    kernel's elements with dilation k = r only: a correlation of its own, without stride.
    """
    n, spatial = y.shape[0], len(sizes)
    first = [p // s for p, s in zip(padding, stride, strict=True)]
    last = [(p + i - 1) // s for p, i, s in zip(padding, sizes, stride, strict=True)]
    count = [b - a + 1 for a, b in zip(first, last, strict=True)]
    channels = weight.shape[1] * groups
    phases = []
    for remainders in product(*map(range, stride)):
        taps = [
            tap
            for given in zip(remainders, weight.shape[2:], stride, dilation, strict=True)
            if (tap := _taps(*given)) is not None
        ]
        if len(taps) < spatial:
            phases.append(y.new_zeros((n, channels, *count)))
            continue
        part = weight
        for dim, tap in enumerate(taps, start=2):
            part = aten.slice.Tensor(part, dim, tap.first, None, tap.step)
        used = part.shape[2:]
        before = [
            tap.shift + (size - 1) * tap.apart - q
            for tap, size, q in zip(taps, used, first, strict=True)
        ]
        apart = [tap.apart for tap in taps]
        columns = _columns(y, count, used, [1] * spatial, before, apart, groups)
        flipped = part.flip(list(range(2, 2 + spatial)))
        matrix = flipped.reshape(groups, -1, *part.shape[1:]).transpose(1, 2)
        matrix = matrix.reshape(groups, part.shape[1], -1)
        phases.append(_results(torch.bmm(matrix, columns), n, count))
    if len(phases) == 1:
        return phases[0]
    whole = torch.stack(phases, dim=-1).reshape(n, channels, *count, *stride)
    pairs = [d for i in range(spatial) for d in (2 + i, 2 + spatial + i)]
    whole = whole.permute(0, 1, *pairs)
    whole = whole.reshape(n, channels, *[c * s for c, s in zip(count, stride, strict=True)])
    for dim, (p, s, q, size) in enumerate(zip(padding, stride, first, sizes, strict=True)):
        whole = whole.narrow(2 + dim, p - s * q, size)
    return whole.contiguous()


class _Taps(NamedTuple):
    """The kernel's elements k with dilation k = remainder, modulo the stride."""

    first: int
    step: int
    """Between their k."""
    shift: int
    """(dilation k - remainder) / stride of the first."""
    apart: int
    """How much that grows from one to the next."""


def _taps(remainder: int, kernel: int, stride: int, dilation: int) -> _Taps | None:
    common = gcd(dilation, stride)
    for first in range(min(kernel, stride // common)):
        if (dilation * first - remainder) % stride == 0:
            shift = (dilation * first - remainder) // stride
            return _Taps(first, stride // common, shift, dilation // common)
    return None
