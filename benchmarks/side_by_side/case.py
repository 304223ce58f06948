"""What a package owes the benchmark: a problem made ready to be solved again and again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from side_by_side.problems import Problem

__all__ = ["Case", "Counts", "Error", "Gradient", "Package", "Timing"]


@dataclass(frozen=True, eq=False)
class Gradient:
    """A loss, its gradient by all parameters in one vector, and by the initial state."""

    loss: float
    parameters: NDArray[Any]
    y0: NDArray[Any]

    def error(self, reference: Gradient) -> Error:
        """How far it is from a reference, relative to the largest entry of that."""

        def apart(mine: NDArray[Any], other: NDArray[Any]) -> float:
            difference = mine.astype(np.float64).reshape(-1) - other.reshape(-1)
            return float(np.abs(difference).max() / np.abs(other).max())

        loss = abs(self.loss - reference.loss) / abs(reference.loss)
        parameters = apart(self.parameters, reference.parameters)
        # max() would forget a NaN that comes second.
        gradient = float(np.maximum(parameters, apart(self.y0, reference.y0)))
        return Error(loss, gradient)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        part = path.with_suffix(".part.npz")
        np.savez(part, loss=self.loss, parameters=self.parameters, y0=self.y0)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Gradient:
        """Read what :meth:`save` wrote."""
        with np.load(path) as saved:
            return cls(float(saved["loss"]), saved["parameters"], saved["y0"])


class Error(NamedTuple):
    """Relative errors of the loss and of the gradient, whichever part of it is worse."""

    loss: float
    gradient: float


class Counts(NamedTuple):
    """Evaluations of the vector field; None where the package does not say."""

    forward: int | None
    backward: int | None


class Timing(NamedTuple):
    """Seconds of one training step's solves."""

    forward: float
    backward: float
    step: float


class Case(Protocol):
    """A problem, and one package's way to its gradient."""

    def solve(self) -> Gradient:
        """Solve forward and backward."""

    def count(self) -> Counts:
        """Solve once more, counting evaluations."""

    def step(self) -> Timing:
        """Solve once more, and time it."""


class Package(Protocol):
    """A module ``by_*.py``."""

    def describe(self) -> dict[str, str]:
        """Versions and BLAS kernels, by name; raises ImportError if it is not installed."""

    def variants(self, problem: Problem) -> tuple[str, ...]:
        """Its ways to a gradient of this problem; none if it cannot solve it."""

    def prepare(self, problem: Problem, variant: str) -> Case:
        """Make a problem ready; nothing is solved yet."""
