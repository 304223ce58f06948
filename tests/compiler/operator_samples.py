"""Vector fields of one operator each, on PyTorch's own samples of its arguments (OpInfo).

The state is (y, z): y is the operator's first floating point tensor, z has the results' shape.
dz/dt is the operator's result, every element of it, so that nothing averages out; its other
floating point tensors are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_unflatten

from tests.compiler.models import Model

__all__ = ["OPERATORS", "Applied", "samples"]

STATE = object()
"""Stands among the arguments for the state's y."""


def _named(op: Any) -> str:
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


OPERATORS = {_named(op): op for op in op_db if op.supports_autograd and torch.float64 in op.dtypes}
"""Those that PyTorch can differentiate, by name."""


@dataclass
class Applied:
    """dy/dt = sin(t) y, dz/dt = operator(y, parameters)."""

    function: Callable[..., Any]
    arguments: list[Any]
    """Flat; STATE where y goes."""
    structure: Any
    permuted: bool
    """Whether the state holds y with its dimensions in reversed order."""

    @classmethod
    def to(cls, function: Callable[[Tensor], Tensor]) -> Applied:
        """A function of y alone."""
        leaves, structure = tree_flatten(((STATE,), {}))
        return cls(function, leaves, structure, permuted=False)

    def __call__(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, _ = state
        return torch.sin(t) * y, self.result(y)

    def result(self, y: Tensor) -> Tensor:
        if self.permuted:
            y = y.permute(tuple(reversed(range(y.ndim))))
        leaves = [y if leaf is STATE else leaf for leaf in self.arguments]
        args, kwargs = tree_unflatten(leaves, self.structure)
        result = self.function(*args, **kwargs)
        results = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        if any(x.is_complex() for x in results):  # real and imaginary parts
            results = [torch.view_as_real(x.resolve_conj()) for x in results if x.is_complex()]
        return torch.cat([x.reshape(-1).to(y.dtype) for x in results])


def samples(name: str, dtype: torch.dtype, most: int) -> Iterator[Model]:
    """Up to ``most`` fields of the operator, spread over its samples; the last not contiguous."""
    op = OPERATORS[name]
    torch.manual_seed(0)
    every = list(islice(op.sample_inputs("cpu", dtype, requires_grad=True), 200))
    every = [sample for sample in every if _is_small(sample)]
    chosen = every[:: max(1, -(-len(every) // most))]
    for index, sample in enumerate(chosen):
        model = None
        if index == len(chosen) - 1:
            model = _model(op, sample.noncontiguous(), permuted=True)
        model = model or _model(op, sample, permuted=False)
        if model is not None:
            yield model


def _is_small(sample: Any) -> bool:
    leaves = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    longest = max((n for x in tensors for n in x.shape), default=0)
    return sum(x.numel() for x in tensors) <= 20_000 and longest <= 1000


def _model(op: Any, sample: Any, *, permuted: bool) -> Model | None:
    arguments = ((sample.input, *sample.args), sample.kwargs)
    leaves, structure = tree_flatten(arguments)
    leaves = [x.detach().requires_grad_(x.requires_grad) if _is_float(x) else x for x in leaves]
    place = next((i for i, x in enumerate(leaves) if _is_float(x) and x.requires_grad), None)
    if place is None:
        return None
    y = leaves[place].detach().clone(memory_format=torch.contiguous_format)
    flat = [STATE if i == place else x for i, x in enumerate(leaves)]
    for x in flat:
        if _is_float(x) and x.dtype != y.dtype:  # could not be packed with the others
            x.requires_grad_(False)
    params = tuple(x for x in flat if _is_float(x) and x.requires_grad)
    if permuted:
        y = y.permute(tuple(reversed(range(y.ndim)))).contiguous()
    field = Applied(op.op, flat, structure, permuted)
    try:
        with torch.no_grad():
            z = torch.zeros_like(field.result(y))
    except RuntimeError:
        if permuted:  # some operators want their argument contiguous
            return None
        raise
    return Model(field, (y, z), params)


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
