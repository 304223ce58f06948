"""Learn the density of two moons by a continuous normalising flow, with both norms.

    python examples/cnf_2d.py

The state is (z, log-density); its derivative needs the trace of the vector
field's Jacobian, which ``torch.autograd.grad`` gives inside of the vector field.
"""

import math

import torch
from sklearn.datasets import make_moons

from pysemi import odeint_adjoint, record

STEPS = 60


class Flow(torch.nn.Module):
    """dz/dt = f(t, z), and d log p/dt = -tr(df/dz)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, 32),
            torch.nn.Tanh(),
            torch.nn.Linear(32, 32),
            torch.nn.Tanh(),
            torch.nn.Linear(32, 2),
        )

    def forward(self, t, state):
        z, _ = state
        with torch.enable_grad():
            z = z.clone() if z.requires_grad else z.detach().requires_grad_()
            dz = self.net(torch.cat([z, t.expand(len(z), 1)], dim=1))
            trace = sum(
                torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in (0, 1)
            )
        return dz, -trace


def train(norm: str) -> None:
    torch.manual_seed(0)
    x = torch.from_numpy(make_moons(500, noise=0.1, random_state=0)[0]).float()
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    flow, times = Flow(), torch.tensor([1.0, 0.0])  # from the data at 1 to the normal base at 0
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    evaluations = 0
    for step in range(STEPS):
        with record() as solves:
            z, change = odeint_adjoint(
                flow,
                (x, torch.zeros(len(x))),
                times,
                rtol=1e-5,
                atol=1e-5,
                adjoint_options={"norm": norm},
            )
            log_base = -0.5 * (z[-1] ** 2 + math.log(2 * math.pi)).sum(dim=1)
            loss = -(log_base - change[-1]).mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        evaluations += solves.backward[0].nfe
        if step % 20 == 19:
            print(f"{norm}, step {step + 1}: {loss.item():.3f} nats")
    print(f"{norm}: {evaluations:,} backward evaluations")


def main() -> None:
    for norm in ("default", "seminorm"):
        train(norm)


if __name__ == "__main__":
    main()
