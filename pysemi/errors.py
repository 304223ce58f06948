"""Every exception that pysemi raises on purpose.

Nothing else lives here. Each message says what was wrong, shows the value, and
says what to do next. The bases are chosen so that handlers written for
torchdiffeq keep working (see :class:`SolveError`).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentError",
    "BackendUnavailableError",
    "BridgeWarning",
    "CompileError",
    "ConfigurationError",
    "DataError",
    "DoubleBackwardError",
    "MissingExtraError",
    "NonFiniteStateError",
    "PysemiError",
    "ResumeError",
    "SolveError",
    "StepBudgetError",
    "StepSizeUnderflowError",
]


class PysemiError(Exception):
    """Base of every exception defined by pysemi."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with the finished message alone, which not every
        # class here takes; a pool whose worker raised one would hang or break.
        return _restored, (type(self), self.args, self.__dict__)


class ArgumentError(PysemiError, ValueError):
    """An argument that no solve can be made with.

    Attributes
    ----------
    argument : str
        Name of the offending argument, as the caller wrote it.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument = argument


class SolveError(PysemiError, AssertionError):
    """A solve that could not be completed.

    torchdiffeq reports a failed solve by ``AssertionError``; this class is one
    too, so a program that catches that keeps working after its import changed.

    Attributes
    ----------
    direction : str
        ``"forward"`` or ``"backward"``.
    t, dt : float or None
        Time of the last attempted step, and the step size asked for.
    error_norm : float or None
        Norm of the scaled error estimate of the last attempted step (accepted
        if at most 1), where there was one.
    trajectory : int or None
        Which of a batch of independent trajectories it was.
    """

    def __init__(
        self,
        message: str,
        *,
        direction: str,
        t: float | None = None,
        dt: float | None = None,
        error_norm: float | None = None,
        trajectory: int | None = None,
    ) -> None:
        where = [
            f"{name} = {value:.6g}"
            for name, value in (("t", t), ("dt", dt), ("error norm", error_norm))
            if value is not None
        ]
        place = f" (at {', '.join(where)})" if where else ""
        which = "" if trajectory is None else f" of trajectory {trajectory}"
        super().__init__(f"{direction} solve{which}: {message}{place}")
        self.direction = direction
        self.t = t
        self.dt = dt
        self.error_norm = error_norm
        self.trajectory = trajectory


class StepSizeUnderflowError(SolveError):
    """The step size became too small to move time forward."""


class NonFiniteStateError(SolveError):
    """The state, the vector field or the adjoint became NaN or infinite."""


class StepBudgetError(SolveError):
    """The solve took more steps than ``options["max_num_steps"]`` allows."""


class DoubleBackwardError(PysemiError, RuntimeError):
    """A gradient of an adjoint gradient was asked for."""


class BackendUnavailableError(PysemiError, RuntimeError):
    """The backend asked for cannot run here, or cannot do what was asked of it."""


class CompileError(PysemiError):
    """A vector field that ``bridge="compiled"`` was asked for cannot be compiled."""


class BridgeWarning(UserWarning):
    """A vector field cannot be compiled, and is evaluated by calling back into Python."""


class ConfigurationError(PysemiError):
    """pysemi's own configuration is missing, unreadable or points nowhere."""


class MissingExtraError(PysemiError):
    """A package of one of pysemi's extras is needed and not installed."""


class DataError(PysemiError):
    """A data set could not be found, downloaded or verified."""


class ResumeError(PysemiError):
    """A run directory cannot be continued, or holds another run."""


class ResultsError(PysemiError):
    """A folder does not hold the results of an experiment, or they cannot be read."""


class WorkerError(PysemiError):
    """A process that made a run ended without a word."""


def _restored(
    kind: type[PysemiError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> PysemiError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def describe(value: Any, limit: int = 80) -> str:
    """Return ``repr(value)`` shortened to ``limit`` characters, for messages."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
