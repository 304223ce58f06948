"""Operators that work element by element: one scalar expression each.

Expressions are in the syntax that Julia and Python share (``pysemi/compiler/scalar.py``);
the functions they call are defined in ``julia/PySemi/src/scalars.jl``.
"""

from __future__ import annotations

from typing import Any

import torch

from pysemi.compiler.builder import Builder, as_operand
from pysemi.compiler.graph import Literal, Operand, View
from pysemi.compiler.ops.registry import aten, operator, register
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["where"]

ARITHMETIC = {
    aten.mul.Tensor: "$1 * $2",
    aten.mul.Scalar: "$1 * $2",
    aten.div.Tensor: "$1 / $2",
    aten.div.Scalar: "$1 / $2",
    aten.neg.default: "-$1",
    aten.abs.default: "abs($1)",
    aten.sgn.default: "sign($1)",
    aten.sign.default: "sign($1)",
    aten.reciprocal.default: "inv($1)",
    aten.sqrt.default: "sqrt($1)",
    aten.rsqrt.default: "inv(sqrt($1))",
    aten.exp.default: "exp($1)",
    aten.exp2.default: "exp2($1)",
    aten.expm1.default: "expm1($1)",
    aten.log.default: "log($1)",
    aten.log2.default: "log2($1)",
    aten.log10.default: "log10($1)",
    aten.log1p.default: "log1p($1)",
    aten.sin.default: "sin($1)",
    aten.cos.default: "cos($1)",
    aten.tan.default: "tan($1)",
    aten.asin.default: "asin($1)",
    aten.acos.default: "acos($1)",
    aten.atan.default: "atan($1)",
    aten.atan2.default: "atan2($1, $2)",
    aten.sinh.default: "sinh($1)",
    aten.cosh.default: "cosh($1)",
    aten.tanh.default: "tanh($1)",
    aten.asinh.default: "asinh($1)",
    aten.acosh.default: "acosh($1)",
    aten.atanh.default: "atanh($1)",
    aten.sigmoid.default: "sigmoid($1)",
    aten.erf.default: "erf($1)",
    aten.erfc.default: "erfc($1)",
    aten.floor.default: "floor($1)",
    aten.ceil.default: "ceil($1)",
    aten.trunc.default: "trunc($1)",
    aten.round.default: "round($1)",
    aten.maximum.default: "maximum($1, $2)",
    aten.minimum.default: "minimum($1, $2)",
    aten.remainder.Tensor: "modulo($1, $2)",
    aten.remainder.Scalar: "modulo($1, $2)",
    aten.fmod.Tensor: "rem($1, $2)",
    aten.fmod.Scalar: "rem($1, $2)",
    aten.copysign.Tensor: "copysign($1, $2)",
    aten.copysign.Scalar: "copysign($1, $2)",
    aten.hypot.default: "hypot($1, $2)",
    aten.fmax.default: "ifelse(isnan($1), $2, ifelse(isnan($2), $1, maximum($1, $2)))",
    aten.fmin.default: "ifelse(isnan($1), $2, ifelse(isnan($2), $1, minimum($1, $2)))",
    aten.lgamma.default: "lgamma($1)",
    aten.digamma.default: "digamma($1)",
    aten.erfinv.default: "erfinv($1)",
    aten.special_erfcx.default: "erfcx($1)",
}
"""Operands are converted to the result's type first."""

PRIMITIVES = {
    "add": "$1 + $2",
    "sub": "$1 - $2",
    "mul": "$1 * $2",
    "neg": "-$1",
    "exp": "exp($1)",
    "log": "log($1)",
    "sqrt": "sqrt($1)",
    "rsqrt": "inv(sqrt($1))",
    "reciprocal": "inv($1)",
    "tanh": "tanh($1)",
    "abs": "abs($1)",
    "trunc": "trunc($1)",
    "round": "round($1)",
    "floor": "floor($1)",
    "ceil": "ceil($1)",
    "fmod": "rem($1, $2)",
}
"""What torch takes some operators apart into, in place of ATen."""

COMPARISONS = {
    "eq": "$1 == $2",
    "ne": "$1 != $2",
    "lt": "$1 < $2",
    "le": "$1 <= $2",
    "gt": "$1 > $2",
    "ge": "$1 >= $2",
}
"""Operands are promoted to a common type; the result is a bool."""

LOGIC = {
    aten.logical_and.default: "both($1, $2)",
    aten.logical_or.default: "either($1, $2)",
    aten.logical_xor.default: "$1 != $2",
    aten.logical_not.default: "negation($1)",
}
"""Of bools."""

BITWISE = {
    "bitwise_and": "$1 & $2",
    "bitwise_or": "$1 | $2",
    "bitwise_xor": "xor($1, $2)",
    "bitwise_not": "~$1",
}
"""Of bools or integers."""


def _arithmetic(template: str) -> Any:
    def entry(builder: Builder, meta: Any, *operands: Any) -> Operand:
        return builder.pointwise(template, *operands, dtype=meta.dtype)

    return entry


def _comparison(template: str) -> Any:
    def entry(builder: Builder, meta: Any, first: Any, second: Any) -> Operand:
        compute = torch.result_type(_sample(first), _sample(second))
        return builder.pointwise(template, first, second, dtype=meta.dtype, compute=compute)

    return entry


def _logic(template: str) -> Any:
    def entry(builder: Builder, meta: Any, *operands: Any) -> Operand:
        return builder.pointwise(template, *operands, dtype=meta.dtype, compute=torch.bool)

    return entry


def _sample(x: Any) -> Any:
    """What stands for ``x`` in torch's own rules of type promotion."""
    if isinstance(x, View):
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    return torch.full(x.shape, x.value, dtype=x.dtype) if isinstance(x, Literal) else x


for _overload, _template in ARITHMETIC.items():
    register(_overload, _arithmetic(_template))
for _name, _template in PRIMITIVES.items():
    register(getattr(torch.ops.prims, _name).default, _arithmetic(_template))
for _name, _template in COMPARISONS.items():
    register(getattr(torch.ops.prims, _name).default, _comparison(_template))
    register(getattr(aten, _name).Tensor, _comparison(_template))
    register(getattr(aten, _name).Scalar, _comparison(_template))
for _name, _template in BITWISE.items():
    register(getattr(torch.ops.prims, _name).default, _arithmetic(_template))
    for _form in set(getattr(aten, _name).overloads()) & {"default", "Tensor", "Scalar"}:
        register(getattr(getattr(aten, _name), _form), _arithmetic(_template))
for _overload, _template in LOGIC.items():
    register(_overload, _logic(_template))


@operator(aten.relu.default)
def _relu(builder: Builder, meta: Any, x: Operand) -> Operand:
    return builder.pointwise("maximum($1, $2)", x, 0, dtype=meta.dtype)


@operator(aten.add.Tensor, aten.add.Scalar)
def _add(builder: Builder, meta: Any, x: Any, y: Any, alpha: Any = 1) -> Operand:
    if alpha != 1:
        y = builder.pointwise("$1 * $2", y, alpha, dtype=meta.dtype)
    if meta.dtype == torch.bool:
        return builder.pointwise("either($1, $2)", x, y, dtype=meta.dtype)
    return builder.add(x, y, meta.dtype)


@operator(aten.sub.Tensor, aten.sub.Scalar)
def _sub(builder: Builder, meta: Any, x: Any, y: Any, alpha: Any = 1) -> Operand:
    if alpha != 1:
        y = builder.pointwise("$1 * $2", y, alpha, dtype=meta.dtype)
    return builder.pointwise("$1 - $2", x, y, dtype=meta.dtype)


@operator(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(builder: Builder, meta: Any, x: Any, y: Any, alpha: Any = 1) -> Operand:
    return _sub(builder, meta, y, x, alpha)


@operator(aten.pow.Tensor_Scalar)
def _pow_scalar(builder: Builder, meta: Any, x: Operand, exponent: Any) -> Operand:
    exact = {1: "$1", 2: "$1 * $1", 3: "$1 * $1 * $1", 0.5: "sqrt($1)", -1: "inv($1)"}
    if exponent == 0:
        return Literal(1, meta.dtype, tuple(meta.shape))
    if exponent in exact:
        return builder.pointwise(exact[exponent], x, dtype=meta.dtype)
    return builder.pointwise("power($1, $2)", x, exponent, dtype=meta.dtype)


@operator(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _pow(builder: Builder, meta: Any, x: Any, exponent: Any) -> Operand:
    return builder.pointwise("power($1, $2)", x, exponent, dtype=meta.dtype)


@operator(aten.where.self, torch.ops.prims.where.default)
def where(builder: Builder, meta: Any, condition: Operand, x: Any, y: Any) -> Operand:
    """``x`` where the condition holds, else ``y``."""
    if isinstance(condition, Literal):
        chosen = builder.convert(as_operand(x if condition.value else y, meta.dtype), meta.dtype)
        return builder.expand(chosen, tuple(meta.shape))
    return builder.pointwise(
        "ifelse($1, $2, $3)",
        condition,
        x,
        y,
        dtype=meta.dtype,
        compute=(torch.bool, meta.dtype, meta.dtype),
    )


@operator(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def _clamp(builder: Builder, meta: Any, x: Operand, low: Any = None, high: Any = None) -> Operand:
    if low is not None:
        x = builder.pointwise("maximum($1, $2)", x, low, dtype=meta.dtype)
    if high is not None:
        x = builder.pointwise("minimum($1, $2)", x, high, dtype=meta.dtype)
    return x


@operator(aten.clamp_min.default)
def _clamp_min(builder: Builder, meta: Any, x: Operand, low: Any) -> Operand:
    return _clamp(builder, meta, x, low)


@operator(aten.clamp_max.default)
def _clamp_max(builder: Builder, meta: Any, x: Operand, high: Any) -> Operand:
    return _clamp(builder, meta, x, None, high)


@operator(aten._to_copy.default, aten.to.dtype)
def _to(builder: Builder, meta: Any, x: Operand, *_args: Any, **_kind: Any) -> Operand:
    return builder.convert(x, meta.dtype)


@operator(aten.isnan.default)
def _isnan(builder: Builder, meta: Any, x: Operand) -> Operand:
    return builder.pointwise("isnan($1)", x, dtype=meta.dtype, compute=x.dtype)


@operator(aten.isinf.default)
def _isinf(builder: Builder, meta: Any, x: Operand) -> Operand:
    return builder.pointwise("isinf($1)", x, dtype=meta.dtype, compute=x.dtype)


@operator(torch.ops.prims.div.default)
def _prims_div(builder: Builder, meta: Any, x: Any, y: Any) -> Operand:
    template = "$1 / $2" if meta.dtype.is_floating_point else "div($1, $2)"
    return builder.pointwise(template, x, y, dtype=meta.dtype)


@operator(aten.signbit.default, torch.ops.prims.signbit.default)
def _signbit(builder: Builder, meta: Any, x: Operand) -> Operand:
    return builder.pointwise("signbit($1)", x, dtype=meta.dtype, compute=x.dtype)


@operator(aten.softshrink_backward.default, aten.hardshrink_backward.default)
def _shrink_backward(builder: Builder, meta: Any, grad: Operand, x: Operand, width: Any) -> Operand:
    template = "ifelse(abs($2) <= $3, $4, $1)"
    return builder.pointwise(template, grad, x, width, 0, dtype=meta.dtype)


@operator(aten.polygamma.default)
def _polygamma(builder: Builder, meta: Any, order: int, x: Operand) -> Operand:
    if order > 1:
        raise Untranslatable(f"torch.polygamma of order {order}")
    name = "trigamma" if order else "digamma"
    return builder.pointwise(f"{name}($1)", x, dtype=meta.dtype)
