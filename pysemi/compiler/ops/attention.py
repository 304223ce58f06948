"""Scaled dot product attention: torch's fused kernel as matrix products and exponentials."""

from __future__ import annotations

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition
from pysemi.compiler.untranslatable import Untranslatable

__all__: list[str] = []


@decomposition(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    if dropout_p:
        raise Untranslatable("attention with dropout, which draws random numbers")
    scores = _scores(query, key, is_causal, attn_mask, scale)
    total = torch.logsumexp(scores, dim=-1)
    out = torch.exp(scores - total.unsqueeze(-1)) @ value
    return _laid_out(out), total


@decomposition(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def _attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    _dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    scores = _scores(query, key, is_causal, attn_mask, scale)
    weights = torch.exp(scores - total.unsqueeze(-1))
    # Of the softmax: w (ḡ - Σ w ḡ), and the sum is that of the result with its cotangent.
    common = (grad * out).sum(-1, keepdim=True)
    by_scores = weights * (grad @ value.mT - common) * _scale(query, scale)
    by_query, by_key, by_value = by_scores @ key, by_scores.mT @ query, weights.mT @ grad
    return _laid_out(by_query), _laid_out(by_key), _laid_out(by_value)


def _scores(
    query: Tensor, key: Tensor, is_causal: bool, mask: Tensor | None, scale: float | None
) -> Tensor:
    scores = query @ key.mT * _scale(query, scale)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _laid_out(x: Tensor) -> Tensor:
    """(batch, heads, length, channels) as torch's kernel leaves it: heads next to channels."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)
