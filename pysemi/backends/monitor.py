"""Counts the work of one solve by torchdiffeq, and turns its failures into ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from pysemi.errors import (
    NonFiniteStateError,
    SolveError,
    StepBudgetError,
    StepSizeUnderflowError,
)
from pysemi.methods import MethodKind
from pysemi.problem import DEFAULT_MAX_NUM_STEPS, SolverSettings
from pysemi.stats import SolveStats

__all__ = ["SolveMonitor"]

_Failure = TypeVar("_Failure", bound=SolveError)


class SolveMonitor:
    """What has happened so far in one solve.

    The last attempt's time, step size and error norm are kept as the tensors
    they came in: reading them would make a GPU wait, so that is left to the
    moment something fails. ``error_norm`` is set by whoever computes the norm.

    Parameters
    ----------
    direction : {"forward", "backward"}
    kind : MethodKind
    settings : SolverSettings
        Of this direction.
    keep_times : bool
        Whether to note when each step and evaluation took place.
    time_sign : int
        +1, or -1 where the solver's own time runs against the user's.
    adjoint : str or None
        Name of the adjoint that a backward solve belongs to.
    state_size, parameter_size : int
        Channels of the state, and parameters that a backward solve is for.
    trajectory : int or None
        Which of some independent ones is solved.
    """

    def __init__(
        self,
        direction: Literal["forward", "backward"],
        kind: MethodKind,
        settings: SolverSettings,
        *,
        keep_times: bool,
        time_sign: int = 1,
        adjoint: str | None = None,
        state_size: int = 0,
        parameter_size: int = 0,
        trajectory: int | None = None,
    ) -> None:
        self.direction = direction
        self.nfe = 0
        self.nvjp = 0
        self.error_norm: Tensor | None = None
        self._kind = kind
        self._settings = settings
        self._keep_times = keep_times
        self._time_sign = time_sign
        self._adjoint = adjoint
        self._state_size = state_size
        self._parameter_size = parameter_size
        self._trajectory = trajectory
        self._budget = _step_budget(kind, settings)
        self._attempts = 0
        self._accepted = 0
        self._rejected = 0
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)
        self._step_times: list[float] = []
        self._step_sizes: list[float] = []
        self._rejected_times: list[float] = []
        self._evaluation_times: list[float] = []
        self._started = 0.0
        self._seconds = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the block, and raise our errors in place of torchdiffeq's assertions."""
        self._started = time.perf_counter()
        try:
            yield
        except SolveError:
            raise
        except (AssertionError, RuntimeError) as error:
            failure = self._explain(error)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._seconds += time.perf_counter() - self._started

    def evaluated(self, t: Tensor) -> None:
        """Note one evaluation of the vector field, at the user's time ``t``."""
        self.nfe += 1
        if self._kind is MethodKind.OPAQUE:
            # Its steps are not to be seen; each takes one evaluation at least.
            self._spend(t, None)
        if self.direction == "backward" and torch.is_grad_enabled():
            # torchdiffeq evaluates under enable_grad exactly where it takes the
            # VJP; without, it only wants f for dL/dt.
            self.nvjp += 1
        if self._keep_times:
            self._evaluation_times.append(float(t.detach()))

    def attempted(self, t: Tensor, dt: Tensor) -> None:
        """Note that a step from ``t`` is about to be tried; may refuse to."""
        self._spend(self._time_sign * t, dt)
        if self._kind is MethodKind.FIXED:
            self.accepted(t, dt)

    def accepted(self, t: Tensor, dt: Tensor) -> None:
        """Note that the step was kept."""
        self._accepted += 1
        if self._keep_times:
            self._step_times.append(self._time_sign * float(t.detach()))
            self._step_sizes.append(abs(float(dt.detach())))

    def rejected(self, t: Tensor) -> None:
        """Note that the step was thrown away."""
        self._rejected += 1
        if self._keep_times:
            self._rejected_times.append(self._time_sign * float(t.detach()))

    def non_finite(self, message: str, *, t: float | None = None) -> NonFiniteStateError:
        """The error for a solve that ended, but with NaN or infinite values."""
        if t is not None:
            return NonFiniteStateError(
                message, direction=self.direction, t=t, trajectory=self._trajectory
            )
        return self._failure(NonFiniteStateError, message)

    def stats(self) -> SolveStats:
        """What the solve cost."""
        reports_steps = self._kind is not MethodKind.OPAQUE
        return SolveStats(
            direction=self.direction,
            backend="torch",
            method=str(self._settings.method),
            adjoint=self._adjoint,
            norm=self._settings.norm.name,
            nfe=self.nfe,
            nvjp=self.nvjp,
            accepted=self._accepted if reports_steps else None,
            rejected=self._rejected if reports_steps else None,
            step_times=np.asarray(self._step_times, dtype=np.float64),
            step_sizes=np.asarray(self._step_sizes, dtype=np.float64),
            rejected_times=np.asarray(self._rejected_times, dtype=np.float64),
            evaluation_times=np.asarray(self._evaluation_times, dtype=np.float64),
            seconds=self._seconds,
            state_size=self._state_size,
            parameter_size=self._parameter_size,
            trajectory=self._trajectory,
        )

    def _spend(self, t: Tensor, dt: Tensor | None) -> None:
        if self._attempts == self._budget:
            raise self._failure(
                StepBudgetError,
                f"{self._attempts} steps did not reach the end; the problem may be stiff or the "
                "tolerance too tight. Raise options['max_num_steps'] (adjoint_options for the "
                "backward solve), loosen rtol and atol, or use a method for stiff problems",
            )
        self._attempts += 1
        self._last = (t, dt)

    def _explain(self, error: Exception) -> SolveError | None:
        message = str(error)
        if message.startswith("Reached maximum number of iterations"):
            # torchdiffeq's own limit for a fixed-step solve that waits for an event.
            return self._failure(
                StepBudgetError, "no event was found; check the sign of event_fn along the solution"
            )
        if message.startswith("underflow in dt"):
            # A NaN error norm also ends here: the step is rejected and its
            # successor has no length (torchdiffeq: _optimal_step_size).
            if self.error_norm is not None and not torch.isfinite(self.error_norm):
                return self._failure(
                    NonFiniteStateError,
                    "the vector field or its derivative became NaN or infinite; look for a "
                    "division, logarithm or exponential in func, or start from a finite y0",
                )
            return self._failure(
                StepSizeUnderflowError,
                "the step size became too small to move time forward: the solution may blow up "
                "here, or the tolerance is beyond the state's precision; loosen rtol and atol, or "
                "use float64",
            )
        if message.startswith("non-finite values in state"):
            return self._failure(
                NonFiniteStateError, "the state became NaN or infinite; look for overflow in func"
            )
        return None

    def _failure(self, kind: type[_Failure], message: str) -> _Failure:
        t, dt = self._last
        return kind(
            message,
            direction=self.direction,
            t=None if t is None else float(t.detach()),
            dt=None if dt is None else float(dt.detach()),
            error_norm=None if self.error_norm is None else float(self.error_norm),
            trajectory=self._trajectory,
        )


def _step_budget(kind: MethodKind, settings: SolverSettings) -> int | None:
    if settings.max_num_steps is None and kind is not MethodKind.FIXED:
        return DEFAULT_MAX_NUM_STEPS
    return settings.max_num_steps
