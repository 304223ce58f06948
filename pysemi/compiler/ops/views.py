"""Operators that only look at an array another way; they cost nothing.

Torch itself works out the geometry, on tensors without data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Literal, Operand, View
from pysemi.compiler.ops.registry import aten, decomposition, operator, register

__all__: list[str] = []

VIEWS = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    aten.diagonal.default,
    aten.unfold.default,
    aten.movedim.intlist,
)


def _view(overload: Any) -> Any:
    def entry(builder: Builder, _meta: Any, x: Operand, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, Literal):
            seen = overload(torch.empty(x.shape, device="meta"), *args, **kwargs)
            return _each(seen, lambda meta: Literal(x.value, x.dtype, tuple(meta.shape)))
        try:
            seen = overload(x.as_meta(), *args, **kwargs)
        except (RuntimeError, ValueError):  # no such view of these strides: lay it out anew
            x = builder.copy(x)
            seen = overload(x.as_meta(), *args, **kwargs)
        if isinstance(seen, torch.Tensor) and not _shares(x, seen):
            x = builder.copy(x)
            seen = overload(x.as_meta(), *args, **kwargs)
        return _each(seen, x.like)

    return entry


def _shares(x: View, seen: torch.Tensor) -> bool:
    # reshape copies where it must, and then has a storage of its own.
    return seen._base is not None or seen.numel() == x.size == 1


def _each(seen: Any, make: Any) -> Any:
    return tuple(map(make, seen)) if isinstance(seen, (tuple, list)) else make(seen)


for _overload in VIEWS:
    register(_overload, _view(_overload))


@operator(
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.contiguous.default,
    aten.clone.default,
    torch.ops.prims.copy_strided.default,
)
def _same(_builder: Builder, _meta: Any, x: Operand, *_strides: Any, **_layout: Any) -> Operand:
    # Values never change in a functional graph, so a copy is the thing itself.
    return x


@decomposition(aten.view_copy.default)
def _view_copy(x: Tensor, size: Sequence[int]) -> Tensor:
    # Torch's own asks for a view, also where only a copy will do.
    return x.reshape(tuple(size))


@operator(torch.ops.prims.broadcast_in_dim.default)
def _broadcast_in_dim(
    _builder: Builder, meta: Any, x: Operand, shape: Any, dimensions: Any
) -> Operand:
    if isinstance(x, Literal):
        return Literal(x.value, x.dtype, tuple(meta.shape))
    placed = x.as_meta()
    for dim in range(len(shape)):
        if dim not in dimensions:
            placed = placed.unsqueeze(dim)
    return x.like(placed.expand(tuple(shape)))


@operator(aten.as_strided.default)
def _as_strided(
    builder: Builder, _meta: Any, x: Operand, size: Any, stride: Any, offset: int | None = None
) -> Operand:
    # Strides of an array as torch had it. Autograd asks so for contiguous ones; of another
    # the comparison with PyTorch, before the first solve, would tell.
    whole = builder.contiguous(builder.array(x))
    return View(whole.source, tuple(size), tuple(stride), offset or 0)


@operator(aten.copy.default)
def _copy(
    builder: Builder, meta: Any, _x: Operand, source: Operand, _async: bool = False
) -> Operand:
    source = builder.convert(source, meta.dtype)
    if isinstance(source, Literal):
        return Literal(source.value, source.dtype, tuple(meta.shape))
    return source.expand(tuple(meta.shape))
