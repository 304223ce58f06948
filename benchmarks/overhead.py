"""What a training step costs beside the solves in Julia.

    python benchmarks/overhead.py

A linear equation of one state over a handful of steps, forward and backward: next to nothing
is computed, so what is left is Python's checks, autograd, and the way to Julia's thread and
back. Medians, in microseconds, one torch thread.
"""

from __future__ import annotations

import time
from statistics import median

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


def step(field: nn.Module, y0: Tensor, adjoint: str) -> None:
    y = pysemi.odeint_adjoint(
        field, y0, T, rtol=1e-3, atol=1e-3, adjoint=adjoint, backend="julia", bridge="compiled"
    )
    y[-1].sum().backward()
    field.zero_grad()


def main() -> None:
    torch.set_num_threads(1)
    field, y0 = Decay(), torch.ones(1)
    print("| adjoint | a step | of it, the solves by Julia's clock | NFE |")
    print("|---|---|---|---|")
    for adjoint in ("discrete", "gauss", "backsolve"):
        for _ in range(50):
            step(field, y0, adjoint)
        whole = []
        for _ in range(STEPS):
            began = time.perf_counter()
            step(field, y0, adjoint)
            whole.append(1e6 * (time.perf_counter() - began))
        with pysemi.record() as solves:
            for _ in range(STEPS):
                step(field, y0, adjoint)
        pairs = list(zip(solves.forward, solves.backward, strict=True))
        inside = median(1e6 * (forward.seconds + backward.seconds) for forward, backward in pairs)
        nfe = f"{pairs[-1][0].nfe} + {pairs[-1][1].nfe}"
        print(f"| {adjoint} | {median(whole):.0f} | {inside:.0f} | {nfe} |")


if __name__ == "__main__":
    main()
