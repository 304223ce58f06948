"""Tell which way a spiral turns by a neural CDE, with and without the seminorm.

    python examples/neural_cde.py

Needs the extra ``experiments`` (torchcde). Trains twice from the same start: once
with the usual norm of the backward solve, once with the adjoint seminorm.
"""

import torch
import torchcde

from pysemi import record
from pysemi.models import NeuralCDE

STEPS = 10


def spirals(count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(time, x, y) along noisy spirals, shape (count, length, 3), and which way they turn."""
    turn = torch.arange(count) % 2
    start = 2 * torch.pi * torch.rand(count, 1)
    t = torch.linspace(0, 4 * torch.pi, length)
    angle = start + (2 * turn - 1).unsqueeze(-1) * t
    radius = (1 + 0.2 * t) / 2
    path = torch.stack([t.expand_as(angle), radius * angle.cos(), radius * angle.sin()], dim=-1)
    path[..., 1:] += 0.01 * torch.randn(count, length, 2)
    return path, turn


def train(norm: str) -> tuple[float, int]:
    torch.manual_seed(0)
    x, turn = spirals(count=128, length=12)
    times = torch.arange(x.shape[1], dtype=torch.float32)
    coefficients = torchcde.linear_interpolation_coeffs(x, times)
    solver = {"rtol": 1e-4, "atol": 1e-7, "adjoint_options": {"norm": norm}}
    model = NeuralCDE(times, 3, 32, 2, width=128, depth=2, solver=solver)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with record() as solves:
        for _ in range(STEPS):
            logits = model(coefficients)
            loss = torch.nn.functional.cross_entropy(logits, turn)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    accuracy = (logits.argmax(dim=-1) == turn).float().mean().item()
    nfe = sum(solve.nfe for solve in solves.backward)
    print(f"{norm}: accuracy {accuracy:.2f}, {nfe:,} backward evaluations")
    return accuracy, nfe


if __name__ == "__main__":
    train("default")
    train("seminorm")
