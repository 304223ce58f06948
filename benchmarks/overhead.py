"""What a training step costs beside the solves in Julia.

    python benchmarks/overhead.py

A linear equation of one state over a handful of steps, forward and backward: next to nothing
is computed, so what is left is Python's checks, autograd, and the way to Julia and back. The
first line is a step in which an ``autograd.Function`` in place of the solve only returns zeros,
forward and backward: what no solver behind autograd gets around. Medians, in microseconds, one
torch thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import pysemi

STEPS = 500
T = torch.tensor([0.0, 1.0])


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * y


class Zeros(torch.autograd.Function):
    """A solve that does nothing."""

    @staticmethod
    def forward(ctx: Any, y0: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(y0, t, rate)
        return torch.zeros(len(t), *y0.shape)

    @staticmethod
    def backward(ctx: Any, _cotangent: Tensor) -> tuple[Tensor | None, ...]:
        y0, _, rate = ctx.saved_tensors
        return torch.zeros_like(y0), None, torch.zeros_like(rate)


def idle_step(field: Decay, y0: Tensor) -> None:
    y = Zeros.apply(y0, T, field.rate)  # type: ignore[no-untyped-call]
    y[-1].sum().backward()
    field.zero_grad()


def step(field: nn.Module, y0: Tensor, adjoint: str) -> None:
    y = pysemi.odeint_adjoint(
        field, y0, T, rtol=1e-3, atol=1e-3, adjoint=adjoint, backend="julia", bridge="compiled"
    )
    y[-1].sum().backward()
    field.zero_grad()


def duration(act: Callable[[], None]) -> float:
    """Median microseconds."""
    for _ in range(50):
        act()
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        act()
        times.append(1e6 * (time.perf_counter() - began))
    return median(times)


def main() -> None:
    torch.set_num_threads(1)
    field, y0 = Decay(), torch.ones(1)
    print("| adjoint | a step | of it, the solves by Julia's clock | NFE |")
    print("|---|---|---|---|")
    print(f"| none, zeros | {duration(lambda: idle_step(field, y0)):.0f} | 0 | 0 |")
    for adjoint in ("discrete", "gauss", "backsolve"):
        whole = duration(partial(step, field, y0, adjoint))
        with pysemi.record() as solves:
            for _ in range(STEPS):
                step(field, y0, adjoint)
        pairs = list(zip(solves.forward, solves.backward, strict=True))
        inside = median(1e6 * (forward.seconds + backward.seconds) for forward, backward in pairs)
        nfe = f"{pairs[-1][0].nfe} + {pairs[-1][1].nfe}"
        print(f"| {adjoint} | {whole:.0f} | {inside:.0f} | {nfe} |")


if __name__ == "__main__":
    main()
