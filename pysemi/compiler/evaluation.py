"""A vector field and its vector-Jacobian products, evaluated by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlatField", "evaluate_field", "evaluate_joint"]

FlatField = Callable[[Tensor, Tensor], Tensor]
"""(t of shape (), y) -> dy/dt, both of one shape: a vector field whose state is one tensor."""


def evaluate_joint(
    field: FlatField,
    t: Tensor,
    y: Tensor,
    cotangent: Tensor,
    params: Sequence[Tensor],
    *,
    recorded: bool = False,
) -> tuple[Any, ...]:
    r"""Evaluate f and both its vector-Jacobian products.

    Parameters
    ----------
    recorded : bool
        Whether it is being recorded: then autograd is handed the cotangent, for which
        torch imports SymPy, half a second's work. Otherwise it differentiates
        :math:`\lambda^T f`, and the numbers are the same.

    Returns
    -------
    tuple
        :math:`f`, :math:`\lambda^T \partial f/\partial y` and each
        :math:`\lambda^T \partial f/\partial\theta_i`; None where f does not depend on it.
    """
    y = y.detach().requires_grad_()
    with torch.enable_grad():
        dy = field(t.detach(), y)
        if not dy.requires_grad:
            return (dy.detach(), *[None] * (1 + len(params)))
        total = None if recorded else (dy * cotangent).sum()
    if total is None:
        products = torch.autograd.grad(dy, (y, *params), cotangent, allow_unused=True)
    else:
        products = torch.autograd.grad(total, (y, *params), allow_unused=True)
    return (dy.detach(), *products)


def evaluate_field(field: FlatField, t: Tensor, y: Tensor) -> tuple[Tensor]:
    """Evaluate the field alone, without gradients."""
    with torch.no_grad():
        return (field(t.detach(), y.detach()).detach(),)
