"""Learn a pendulum's energy from its motion, and see that the motion learnt keeps it.

    python examples/hamiltonian.py

The network is the energy H; the vector field is its gradient, turned by 90 degrees
(Hamilton's equations), so whatever is learnt conserves H.
"""

import torch

from pysemi import odeint, odeint_adjoint

STEPS = 150
TOLERANCES = {"rtol": 1e-5, "atol": 1e-6}


class Hamiltonian(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.energy = torch.nn.Sequential(
            torch.nn.Linear(2, 48),
            torch.nn.Tanh(),
            torch.nn.Linear(48, 48),
            torch.nn.Tanh(),
            torch.nn.Linear(48, 1),
        )

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_leaf else x
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        by_q, by_p = slope.split(1, dim=-1)
        return torch.cat([by_p, -by_q], dim=-1)


def true_energy(x: torch.Tensor) -> torch.Tensor:
    q, p = x.unbind(dim=-1)
    return p**2 / 2 - q.cos()


def true_field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    q, p = x.unbind(dim=-1)
    return torch.stack([p, -q.sin()], dim=-1)


def main() -> None:
    torch.manual_seed(0)
    x0 = 2 * torch.rand(128, 2) - 1
    t = torch.linspace(0, 2, 6)
    truth = odeint(true_field, x0, t, **TOLERANCES)
    func = Hamiltonian()
    optimizer = torch.optim.Adam(func.parameters(), lr=1e-2)
    for step in range(STEPS):
        x = odeint_adjoint(func, x0, t, **TOLERANCES, adjoint_options={"norm": "seminorm"})
        loss = (x - truth).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 30 == 29:
            print(f"step {step + 1}: loss {loss.item():.2e}")
    # About nine swings, where training has shown a third of one.
    long = torch.linspace(0, 60, 121)
    with torch.no_grad():
        x = odeint(func, torch.tensor([[0.9, 0.0]]), long, **TOLERANCES)
        learnt, true = func.energy(x).flatten(), true_energy(x).flatten()
    for name, energy in (("learnt", learnt), ("true", true)):
        print(f"the {name} energy stays within {(energy - energy[0]).abs().max().item():.4f}")


if __name__ == "__main__":
    main()
