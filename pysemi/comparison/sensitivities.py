r"""Gradients of stiff models without an adjoint: forward sensitivities, by SciPy's Radau.

torchdiffeq has no solver for a stiff model, and no backward solve in which its trajectories,
drawn together forward in time, would not part. Forward in time,

.. math:: \dot S = \frac{\partial f}{\partial y} S + \frac{\partial f}{\partial p},

S being the derivative of y by p = (y0, θ), is as stable as the model itself. It costs a
column for each of these numbers, and is for small models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pysemi.comparison.gradient import Gradient, Measurement
from pysemi.comparison.models import Case
from pysemi.errors import SolveError
from pysemi.stats import SolveStats

__all__ = ["by_sensitivities"]

_METHOD = "Radau"


def by_sensitivities(case: Case, tolerance: float, t_gradient: bool) -> Measurement:
    """Solve a model whose state is one tensor; in float64, whatever its dtype.

    Raises
    ------
    SolveError
        If SciPy cannot solve it.
    """
    case = case.to(torch.float64)
    assert isinstance(case.y0, Tensor)
    field = _Field(case)
    n, m = field.nstates, field.nstates + field.nparams
    y0 = case.y0.reshape(-1).numpy()
    scale = torch.ones(()) if case.sizes is None else case.sizes
    atol = tolerance * scale.expand(case.y0.shape).reshape(-1).double().numpy()
    began = time.perf_counter()
    plain = _solve(field.slope, field.jacobian, case.t, y0, tolerance, atol)
    halfway = time.perf_counter()
    start = np.concatenate([y0, np.eye(n, m).reshape(-1)])
    # Only near the solution is Newton's method asked for it: what S's slope owes to the change
    # of ∂f/∂y is left out.
    joint = _solve(
        field.joint_slope,
        lambda t, z: np.kron(field.jacobian(t, z[:n]), np.eye(m + 1))[field.order][:, field.order],
        case.t,
        start,
        tolerance,
        np.concatenate([atol, np.full(n * m, tolerance)]),
    )
    ended = time.perf_counter()

    y = torch.from_numpy(plain.y.T.copy()).view(-1, *case.y0.shape).requires_grad_()
    loss = case.loss(y)
    (cotangents,) = torch.autograd.grad(loss, y)
    cotangents = cotangents.reshape(len(case.t), n)
    sensitivities = torch.from_numpy(joint.y.T[:, n:].copy()).view(-1, n, m)
    bars = torch.einsum("in,inm->m", cotangents, sensitivities)
    times = None
    if t_gradient:
        slopes = [field.slope(float(t), state) for t, state in zip(case.t, plain.y.T, strict=True)]
        times = (cotangents * torch.from_numpy(np.stack(slopes))).sum(dim=1)
        # Starting later, the trajectory is at y0 when it would have been a little further.
        times[0] -= bars[:n] @ torch.from_numpy(slopes[0])
    sizes = [param.numel() for param in field.params.values()]
    gradient = Gradient(
        loss=float(loss.detach()),
        y0=bars[:n],
        params=dict(zip(field.params, bars[n:].split(sizes), strict=True)),
        t=times,
    )
    return Measurement(
        gradient,
        SolveStats("forward", "scipy", _METHOD, "rms", plain.nfev, seconds=halfway - began),
        SolveStats(
            "backward",
            "scipy",
            _METHOD,
            "rms",
            joint.nfev,
            adjoint="sensitivities",
            seconds=ended - halfway,
        ),
        ended - began,
    )


class _Field:
    """A model's slope and its derivatives, as NumPy sees them."""

    def __init__(self, case: Case) -> None:
        assert isinstance(case.y0, Tensor)
        self._func = case.func
        self._shape = case.y0.shape
        self.params = {name: param.detach() for name, param in case.func.named_parameters()}
        self.nstates = case.y0.numel()
        self.nparams = sum(param.numel() for param in self.params.values())
        # z is y and then S row by row; the Kronecker product has y_i and S's row i together.
        n, m = self.nstates, self.nstates + self.nparams
        columns = np.arange(n * (m + 1)).reshape(n, m + 1)
        self.order = np.concatenate([columns[:, 0], columns[:, 1:].reshape(-1)])

    def _call(self, params: dict[str, Tensor], t: float, y: Tensor) -> Tensor:
        arguments = (torch.tensor(t, dtype=y.dtype), y.view(self._shape))
        slope: Tensor = torch.func.functional_call(self._func, params, arguments)
        return slope.reshape(-1)

    def slope(self, t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            slope: NDArray[np.float64] = self._call(self.params, t, torch.from_numpy(y)).numpy()
        return slope

    def jacobian(self, t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        found = torch.func.jacrev(lambda x: self._call(self.params, t, x))(torch.from_numpy(y))
        jacobian: NDArray[np.float64] = found.numpy()
        return jacobian

    def joint_slope(self, t: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
        n = self.nstates
        y, sensitivities = torch.from_numpy(z[:n].copy()), z[n:].reshape(n, -1)
        by_params, by_y = torch.func.jacrev(lambda p, x: self._call(p, t, x), argnums=(0, 1))(
            self.params, y
        )
        columns = [part.reshape(n, -1) for part in by_params.values()]
        slope = by_y.numpy() @ sensitivities
        slope[:, n:] += torch.cat(columns, dim=1).numpy()
        return np.concatenate([self.slope(t, z[:n]), slope.reshape(-1)])


def _solve(
    slope: Callable[[float, NDArray[np.float64]], NDArray[np.float64]],
    jacobian: Callable[[float, NDArray[np.float64]], NDArray[np.float64]],
    t: Tensor,
    y0: NDArray[np.float64],
    rtol: float,
    atol: NDArray[np.float64],
) -> Any:
    from scipy.integrate import solve_ivp

    times = t.numpy()
    solved = solve_ivp(
        slope,
        (times[0], times[-1]),
        y0,
        method=_METHOD,
        t_eval=times,
        jac=jacobian,
        rtol=rtol,
        atol=atol,
    )
    if not solved.success:
        raise SolveError(f"SciPy's {_METHOD} says: {solved.message}", direction="forward")
    return solved
