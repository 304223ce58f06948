"""A case that is solved under PyTorch's autograd, whichever package solves it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from side_by_side.case import Counts, Gradient, Timing
from side_by_side.fields_torch import field
from side_by_side.problems import Problem

__all__ = ["Solve", "TorchCase", "describe_torch"]

Solve: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps field, y0 and t to the solution, shape ``(T, *y0.shape)``."""


class TorchCase:
    """See :class:`~side_by_side.case.Case`."""

    def __init__(self, problem: Problem, solve: Solve, dtype: torch.dtype = torch.float32) -> None:
        self._field = field(problem, dtype)
        self._solve = solve
        self._y0 = torch.from_numpy(problem.y0).to(dtype).requires_grad_()
        self._t = torch.from_numpy(problem.t).to(dtype)
        self._weights = torch.from_numpy(problem.loss_weights).to(dtype)
        self._wanted = (self._y0, *self._field.parameters())

    def _forward(self) -> Tensor:
        return (self._weights * self._solve(self._field, self._y0, self._t) ** 2).sum()

    def _backward(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, self._wanted)

    def solve(self) -> Gradient:
        loss = self._forward()
        y0, *parameters = self._backward(loss)
        vector = np.concatenate([part.numpy().reshape(-1) for part in parameters])
        return Gradient(float(loss.detach()), vector, y0.numpy())

    def count(self) -> Counts:
        calls = 0

        def one_more(*_: Any) -> None:
            nonlocal calls
            calls += 1

        handle = self._field.register_forward_pre_hook(one_more)
        try:
            loss = self._forward()
            forward = calls
            self._backward(loss)
        finally:
            handle.remove()
        return Counts(forward, calls - forward)

    def step(self) -> Timing:
        began = time.perf_counter()
        loss = self._forward()
        between = time.perf_counter()
        self._backward(loss)
        ended = time.perf_counter()
        return Timing(between - began, ended - between, ended - began)


def describe_torch() -> dict[str, str]:
    """Its version, and what multiplies its matrices."""
    shown = torch.__config__.show()
    libraries = re.findall(r"(?:oneAPI Math Kernel Library|OpenBLAS|MKL-DNN)[^\n(]*", shown)
    capability = torch.backends.cpu.get_cpu_capability()
    kernels = [*(re.sub(r"\s+", " ", name).strip() for name in libraries), *_openblas_kernels()]
    return {
        "torch": torch.__version__,
        "torch BLAS": ", ".join([*kernels, f"CPU capability {capability}"]),
        "torch threads": str(torch.get_num_threads()),
    }


def _openblas_kernels() -> list[str]:
    """The OpenBLAS that is loaded, and for which processor it chose its kernels."""
    try:
        from threadpoolctl import threadpool_info  # comes with scikit-learn
    except ImportError:
        return []
    return [
        f"OpenBLAS {found['version']} ({found.get('architecture', 'unknown kernel')})"
        for found in threadpool_info()
        if found["internal_api"] == "openblas" and "torch" in found["filepath"]
    ]
