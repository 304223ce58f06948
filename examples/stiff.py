"""Learn the rates of Robertson's reactions, which an explicit method cannot solve.

    python examples/stiff.py

Needs Julia. The rates differ by a factor of 1e9, and are learnt as logarithms from
concentrations between t = 1e-5 and t = 1e4. The method is implicit, and only
``adjoint="quadrature"`` goes with it.
"""

import torch

from pysemi import odeint, odeint_adjoint, record
from pysemi.errors import StepBudgetError

STEPS = 100


class Reactions(torch.nn.Module):
    """A -> B at k1, 2 B -> B + C at k2, B + C -> A + C at k3."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.log_rates = torch.nn.Parameter(torch.tensor(rates, dtype=torch.float64).log())

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        k1, k2, k3 = self.log_rates.exp()
        a, b, c = y.unbind(-1)
        first, second, third = k1 * a, k2 * b * b, k3 * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)


def main() -> None:
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    t = torch.cat([torch.zeros(1), torch.logspace(-5, 4, 19)]).double()
    truth = Reactions([0.04, 3e7, 1e4])
    stiff = dict(method="Rodas5P", rtol=1e-6, atol=1e-10, backend="julia")
    with torch.no_grad():
        data = odeint(truth, y0, t, **stiff)
    scale = data.amax(dim=0)  # B is never more than 4e-5

    func = Reactions([0.1, 1e7, 3e4])
    optimizer = torch.optim.Adam(func.parameters(), lr=0.1)
    for step in range(STEPS):
        with record() as solves:
            y = odeint_adjoint(func, y0, t, adjoint="quadrature", **stiff)
            loss = ((y - data) / scale).square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            forward, backward = solves.forward[0], solves.backward[0]
            print(
                f"step {step + 1}: loss {loss.item():.1e}, {forward.accepted} steps forward, "
                f"{backward.accepted} backward"
            )
    found = ", ".join(f"{rate:.3g}" for rate in func.log_rates.exp().tolist())
    print(f"rates {found}")

    budget = 100_000
    try:
        odeint(truth, y0, t, method="dopri5", options={"max_num_steps": budget}, backend="julia")
    except StepBudgetError as error:
        print(f"dopri5 was at t = {error.t:.1f} after {budget:,} steps")


if __name__ == "__main__":
    main()
