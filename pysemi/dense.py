"""The solution of an initial value problem as a function of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pysemi.adjoint import interpolate
from pysemi.backends.base import Backend
from pysemi.errors import ArgumentError, describe
from pysemi.problem import Adjoint, Problem
from pysemi.stats import Recording

__all__ = ["DenseSolution"]


class DenseSolution:
    """A solution that can be evaluated at any time of its interval; :func:`pysemi.odeint_dense`.

    What it returns has gradients with respect to y0, the time, and all that the vector field
    reads. Each call that is differentiated costs one pass back over the steps, so one call with
    many times is cheaper than many calls.

    Attributes
    ----------
    t0, t1 : float
        The interval; ``t1 < t0`` for a solution backward in time.

    Examples
    --------
    >>> y = pysemi.odeint_dense(func, y0, 0.0, 1.0)  # doctest: +SKIP
    >>> y(0.25).shape == y0.shape  # doctest: +SKIP
    True
    >>> y(torch.linspace(0, 1, 50)).shape == (50, *y0.shape)  # doctest: +SKIP
    True
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        adjoint: Adjoint | None,
        recordings: Sequence[Recording],
    ) -> None:
        self.t0, self.t1 = problem.t.detach().tolist()
        self._backend = backend
        self._problem = problem
        self._adjoint = adjoint
        self._recordings = recordings
        self._solution = backend.solve_dense(problem, adjoint, recordings)

    def __call__(self, t: Tensor | float) -> Any:
        """The state at ``t``.

        Parameters
        ----------
        t : Tensor or float
            Of any shape; floating point; between t0 and t1.

        Returns
        -------
        Tensor or tuple of Tensor
            Shape ``(*t.shape, *y0.shape)``; for a tuple state, each component's.

        Raises
        ------
        ArgumentError
            If ``t`` lies outside the interval, or, on Julia, if a tensor that the vector field
            reads was changed after the solve: the steps are made again for their slopes.
        """
        start = self._problem.t[:1]
        times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=start.dtype)
        if not times.is_floating_point():
            raise ArgumentError("t", f"has dtype {times.dtype}; use a floating point dtype")
        flat = times.reshape(-1).to(start)
        self._check_within(flat)
        order = torch.argsort(flat.detach(), descending=self.t1 < self.t0, stable=True)
        y = self._evaluate(torch.cat([start, flat[order]]))[1:][torch.argsort(order)]
        return self._problem.layout.unflatten(y.reshape(*times.shape, *y.shape[1:]))

    def _evaluate(self, t: Tensor) -> Tensor:
        if self._adjoint is None:
            return self._backend.interpolate(self._solution, t).y
        return interpolate(
            self._backend, self._problem, self._adjoint, self._solution, t, self._recordings
        )

    def _check_within(self, t: Tensor) -> None:
        low, high = sorted((self.t0, self.t1))
        outside = ~((t >= low) & (t <= high))  # NaN too
        if outside.any():
            raise ArgumentError(
                "t",
                f"{describe(float(t[outside][0]))} is not between t0 = {self.t0:.9g} and "
                f"t1 = {self.t1:.9g}",
            )

    def __repr__(self) -> str:
        name = self._backend.name
        return f"<DenseSolution: t from {self.t0:.6g} to {self.t1:.6g}, backend {name!r}>"
