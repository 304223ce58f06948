"""``torch.cov`` and ``torch.corrcoef`` in other operators: torch's own look at a value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Covariances"]


class Covariances(TorchFunctionMode):
    """Puts the functions of this file in torch's place."""

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _covariance(
    x: Tensor,
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """Of the rows of ``x``, each a variable; weights are of the observations."""
    x = x.reshape(1, -1) if x.ndim < 2 else x
    # In the weights' own dtype, which decides what is rounded.
    weights = torch.ones(x.shape[1], dtype=torch.int64)
    for given in (fweights, aweights):
        weights = weights if given is None else weights * given
    total = weights.sum()
    centred = x - (x * weights).sum(1, keepdim=True) / total
    lost = correction if aweights is None else correction * (weights * aweights).sum() / total
    count = torch.clamp(total - lost, min=0)
    return ((centred * weights) @ centred.mT / count).squeeze()


def _correlation(x: Tensor) -> Tensor:
    covariance = _covariance(x)
    if covariance.ndim == 0:
        return covariance / covariance
    deviation = covariance.diagonal().sqrt()
    scaled = covariance / deviation.unsqueeze(1) / deviation
    return scaled.clamp(-1, 1)


_INSTEAD = {
    torch.cov: _covariance,
    torch.Tensor.cov: _covariance,
    torch.corrcoef: _correlation,
    torch.Tensor.corrcoef: _correlation,
}
