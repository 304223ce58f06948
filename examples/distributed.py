"""Train a neural ODE on several processes with DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py

Every process solves its own part of the batch, and they share the gradients. What is
wrapped is the module whose ``forward`` solves, not the vector field.
"""

import gc
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pysemi import odeint, odeint_adjoint, record

STEPS = 60


class VectorField(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(2, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2)
        )

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.net(y**3)


class NeuralODE(torch.nn.Module):
    def __init__(self, field: torch.nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, y0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return odeint_adjoint(
            self.field, y0, t, rtol=1e-5, atol=1e-7, adjoint_options={"norm": "seminorm"}
        )


def spiral(t: torch.Tensor) -> torch.Tensor:
    """States at the times ``t`` along 20 spirals, shape (T, 20, 2)."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    angle = torch.linspace(0, 2 * torch.pi, 21)[:-1]
    y0 = 1.5 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return odeint(lambda t, y: y**3 @ matrix, y0, t, backend="torch")


def main() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    t = torch.linspace(0, 1, 3)
    mine = spiral(t)[:, rank::size]
    torch.manual_seed(rank)  # it does not matter: all start from the parameters of rank 0
    model = DistributedDataParallel(NeuralODE(VectorField()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        with record() as solves:
            loss = (model(mine[0], t) - mine).abs().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            # The mean over all processes; "avg" is NCCL's alone.
            dist.all_reduce(total := loss.detach().clone())
            if rank == 0:
                forward, backward = solves.forward[0], solves.backward[0]
                print(
                    f"step {step + 1}: loss {total.item() / size:.3f} on {size} process(es), "
                    f"{forward.nfe} evaluations forward and {backward.nfe} backward on the first"
                )


if __name__ == "__main__":
    if "RANK" in os.environ:  # torchrun sets it
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    main()
    # DistributedDataParallel is part of a cycle. While it lives, so do gloo's threads, and one
    # that lets go of a tensor after Python has ended aborts the process (PyTorch issue 190489).
    gc.collect()
    dist.destroy_process_group()
