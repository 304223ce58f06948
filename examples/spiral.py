"""Fit a neural ODE to a spiral, and see what its solves cost.

    python examples/spiral.py

The only line that differs from a program for torchdiffeq is the import;
``record`` is what pysemi adds.
"""

import torch

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


def main() -> None:
    torch.manual_seed(0)
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    angle = torch.linspace(0, 2 * torch.pi, 21)[:-1]
    y0 = 1.5 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    t = torch.linspace(0, 1, 3)
    truth = odeint(lambda t, y: y**3 @ matrix, y0, t)
    func = VectorField()
    optimizer = torch.optim.Adam(func.parameters(), lr=1e-2)
    for step in range(STEPS):
        with record() as solves:
            y = odeint_adjoint(
                func, y0, t, rtol=1e-5, atol=1e-7, adjoint_options={"norm": "seminorm"}
            )
            loss = (y - truth).abs().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            forward, backward = solves.forward[0], solves.backward[0]
            print(
                f"step {step + 1}: loss {loss.item():.3f}, {forward.nfe} evaluations forward, "
                f"{backward.nfe} backward ({backward.accepted} steps accepted, "
                f"{backward.rejected} rejected)"
            )


if __name__ == "__main__":
    main()
