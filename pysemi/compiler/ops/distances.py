"""Distances between all pairs of points, of two sets or within one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysemi.compiler.ops.registry import aten, decomposition

__all__: list[str] = []


@decomposition(aten._cdist_forward.default)
def _distances(x: Tensor, y: Tensor, p: float, _mode: int | None) -> Tensor:
    apart = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(x.dtype).sum(-1)
    if p == 1:
        return apart.sum(-1)
    if p == 2:
        return (apart * apart).sum(-1).sqrt()
    if p == math.inf:
        return apart.amax(-1)
    return apart.pow(p).sum(-1).pow(1 / p)


@decomposition(aten._euclidean_dist.default)
def _euclidean(x: Tensor, y: Tensor) -> Tensor:
    return _distances(x, y, 2.0, None)


@decomposition(aten._cdist_backward.default)
def _distances_backward(grad: Tensor, x: Tensor, y: Tensor, p: float, distance: Tensor) -> Tensor:
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    grad, distance = grad.unsqueeze(-1), distance.unsqueeze(-1)
    if p == 0:
        return torch.zeros_like(x)
    if p == 1:
        return (grad * difference.sign()).sum(-2)
    if p == math.inf:
        furthest = difference.abs() == distance
        return (grad * difference.sign() * furthest).sum(-2)
    slope = difference.sign() * difference.abs().pow(p - 1) if p != 2 else difference
    slope = slope / (distance.pow(p - 1) if p != 2 else distance)
    met = distance == 0 if p >= 1 else (distance == 0) | (difference == 0)
    return (grad * slope.masked_fill(met, 0)).sum(-2)


@decomposition(aten._pdist_forward.default)
def _own_distances(x: Tensor, p: float = 2) -> Tensor:
    one, other = torch.triu_indices(x.shape[0], x.shape[0], 1)
    return _distances(x, x, p, None)[one, other]


@decomposition(aten._pdist_backward.default)
def _own_distances_backward(grad: Tensor, x: Tensor, p: float, distance: Tensor) -> Tensor:
    one, other = torch.triu_indices(x.shape[0], x.shape[0], 1)

    def both_ways(values: Tensor) -> Tensor:
        square = values.new_zeros(x.shape[0], x.shape[0]).index_put((one, other), values)
        return square + square.mT

    return _distances_backward(both_ways(grad), x, x, p, both_ways(distance))
