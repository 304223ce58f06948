"""Operators that make tensors of known content.

Those with no tensor argument (``full``, ``arange``, ``eye``) are constants, which the
importer folds by running them; only those whose shape comes from an argument are here.
"""

from __future__ import annotations

from typing import Any

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Literal, Operand
from pysemi.compiler.ops.registry import aten, operator

__all__: list[str] = []


@operator(aten.zeros_like.default, aten.new_zeros.default)
def _zeros_like(_builder: Builder, meta: Any, _x: Operand, *_size: Any, **_kind: Any) -> Operand:
    return Literal(0, meta.dtype, tuple(meta.shape))


@operator(aten.ones_like.default, aten.new_ones.default)
def _ones_like(_builder: Builder, meta: Any, _x: Operand, *_size: Any, **_kind: Any) -> Operand:
    return Literal(1, meta.dtype, tuple(meta.shape))


@operator(aten.full_like.default)
def _full_like(_builder: Builder, meta: Any, _x: Operand, value: Any, **_kind: Any) -> Operand:
    return Literal(value, meta.dtype, tuple(meta.shape))


@operator(aten.new_full.default)
def _new_full(
    _builder: Builder, meta: Any, _x: Operand, _size: Any, value: Any, **_kind: Any
) -> Operand:
    return Literal(value, meta.dtype, tuple(meta.shape))


@operator(aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default)
def _empty_like(_builder: Builder, meta: Any, _x: Operand, *_args: Any, **_kind: Any) -> Operand:
    # Whoever asked overwrites it; zeros make a mistake visible instead of random.
    return Literal(0, meta.dtype, tuple(meta.shape))
