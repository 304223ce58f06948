"""What a backend owes the rest of pysemi."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pysemi.problem import Adjoint, Problem
from pysemi.stats import Recording

__all__ = ["Backend", "Gradients", "Solution"]


@dataclass
class Solution:
    """The outcome of a forward solve.

    Attributes
    ----------
    y : Tensor
        The state at the observation times, shape ``(T, *y0.shape)``; with an
        event, at ``t[0]`` and at the event.
    event_t : Tensor or None
        Time of the event, shape ``()``, in the dtype of ``t``.
    memory : object
        Whatever the backend needs to solve backward from here.
    """

    y: Tensor
    event_t: Tensor | None = None
    memory: Any = None

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors the user gets: ``(y,)`` or ``(event_t, y)``."""
        return (self.y,) if self.event_t is None else (self.event_t, self.y)


@dataclass(frozen=True)
class Gradients:
    """The outcome of a backward solve; None where no gradient was asked for."""

    y0: Tensor | None
    t: Tensor | None
    params: tuple[Tensor | None, ...]


class Backend(ABC):
    """A way to solve problems, and to solve their adjoints backward.

    A backend is stateless: everything that belongs to one solve travels in the
    :class:`Solution`. It raises :class:`pysemi.errors.SolveError` when a solve
    fails, and adds a :class:`pysemi.SolveStats` for each solve that it completes
    to the recordings it is given.
    """

    name: ClassVar[str]

    solves_batches: ClassVar[bool] = False
    """Whether it takes problems of independent trajectories; else it gets them one by one."""

    prepares: ClassVar[bool] = False
    """Whether it keeps in :class:`~pysemi.problem.Recurring` what later problems can use."""

    @abstractmethod
    def accept(self, problem: Problem, adjoint: Adjoint | None, bridge: str) -> Adjoint | None:
        """Return the adjoint that gradients come from, or refuse what cannot be solved.

        Parameters
        ----------
        adjoint : Adjoint or None
            The one that was asked for; None for the gradient of the discrete solution.

        Returns
        -------
        Adjoint or None
            ``adjoint``, or the backend's own way to the discrete gradient; None if
            :meth:`solve` returns tensors that autograd can go through.

        Raises
        ------
        ArgumentError
        """

    def start(self) -> None:  # noqa: B027 (most backends have nothing to wait for)
        """Make ready what the first solve would wait for; raises if that cannot be had."""

    @abstractmethod
    def solve(self, problem: Problem, recordings: Sequence[Recording]) -> Solution:
        """Solve forward; autograd goes through it where :meth:`accept` said so."""

    @abstractmethod
    def solve_forward(
        self, problem: Problem, adjoint: Adjoint, recordings: Sequence[Recording]
    ) -> Solution:
        """Solve forward for a later :meth:`solve_backward`; outputs carry no gradient.

        Called with gradients disabled.
        """

    @abstractmethod
    def solve_dense(
        self, problem: Problem, adjoint: Adjoint | None, recordings: Sequence[Recording]
    ) -> Solution:
        """Solve forward, and keep the steps for :meth:`interpolate`.

        Parameters
        ----------
        problem : Problem
            With two times.
        adjoint : Adjoint or None
            What :meth:`accept` returned where none was asked for.

        Raises
        ------
        ArgumentError
            If the method has no interpolation that could be differentiated.
        """

    @abstractmethod
    def interpolate(self, solution: Solution, t: Tensor) -> Solution:
        """The states at other times, for autograd or a :meth:`solve_backward` from there.

        Parameters
        ----------
        solution : Solution
            Of :meth:`solve_dense`.
        t : Tensor
            Shape ``(T,)``, in the order in which the solve went; the first is its start.
        """

    @abstractmethod
    def solve_backward(
        self, solution: Solution, cotangents: Sequence[Tensor], recordings: Sequence[Recording]
    ) -> Gradients:
        """Solve the adjoint backward.

        Parameters
        ----------
        solution : Solution
            Of :meth:`solve_forward`. May be used more than once, and from any
            thread.
        cotangents : sequence of Tensor
            dL/d(output), one for each of ``solution.outputs``.
        """
