"""One of several processes that train together: a program that test_distributed.py starts.

    python -m tests.distributed_rank RANK SIZE BACKEND FOLDER

What it found is in FOLDER/RANK.pt.
"""

from __future__ import annotations

import gc
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import pysemi
from tests.vector_fields import Spiral

BATCH = 8
TIMES = torch.linspace(0, 1, 3, dtype=torch.float64)


def initial_states() -> Tensor:
    return torch.linspace(-1, 1, 2 * BATCH, dtype=torch.float64).view(BATCH, 2)


class Solution(nn.Module):
    """A neural ODE, with a network after it that may be left out."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.field = Spiral()
        self.head = nn.Linear(2, 2, dtype=torch.float64)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.backend = backend

    def forward(self, y0: Tensor, *, with_head: bool = True) -> Tensor:
        y = pysemi.odeint_adjoint(
            self.field, y0, TIMES, rtol=1e-10, atol=1e-10, backend=self.backend
        )
        return self.head(y) if with_head else y


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {
        name.removeprefix("module."): None if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def one_solve(model: nn.Module, y0: Tensor, **options: bool) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(y0, **options).square().mean().backward()
    return gradients(model)


def two_solves(model: nn.Module, y0: Tensor) -> dict[str, Tensor | None]:
    """Two forward passes, the second from where the first ended, before one backward pass."""
    model.zero_grad()
    first = model(y0)
    (first.square().mean() + model(first[-1]).square().mean()).backward()
    return gradients(model)


def perturbed(model: Solution, amount: float) -> Solution:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount)
    return model


def train(model: nn.Module, y0: Tensor, steps: int) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        one_solve(model, y0)
        optimizer.step()
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}


def main(rank: int, size: int, backend: str, folder: Path) -> None:
    # A rank that died must not keep the other waiting for the half hour that is usual.
    limit = timedelta(seconds=200)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    mine = initial_states()[rank::size]
    found = {}

    model = perturbed(Solution(backend), 0.1 * rank)
    with torch.no_grad():
        found["states before"] = model(initial_states())
        wrapped = DistributedDataParallel(model)
        found["states after"] = model(initial_states())

    found["one solve"] = one_solve(wrapped, mine)
    found["two solves"] = two_solves(wrapped, mine)

    wrapped.zero_grad()
    half = len(mine) // 2
    with wrapped.no_sync():
        wrapped(mine[:half]).square().mean().div(2).backward()
    wrapped(mine[half:]).square().mean().div(2).backward()
    found["accumulated"] = gradients(wrapped)

    loose = DistributedDataParallel(Solution(backend), find_unused_parameters=True)
    found["head unused"] = one_solve(loose, mine, with_head=False)
    found["head used again"] = one_solve(loose, mine)

    static = DistributedDataParallel(Solution(backend), static_graph=True)
    one_solve(static, mine)
    found["static graph"] = one_solve(static, mine)

    found["trained"] = train(wrapped, mine, steps=4)
    with pysemi.record() as solves:
        one_solve(wrapped, mine)
    found["backends"] = [(s.backend, s.bridge) for s in (*solves.forward, *solves.backward)]
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    gc.collect()  # as in examples/distributed.py
    dist.destroy_process_group()
