"""Checking every package's gradient, and timing those that are right, in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from side_by_side.problems import Problem
from side_by_side.workers import WorkerError

__all__ = ["Asked", "Budget", "Row", "alternating", "measure"]


class Asked(Protocol):
    """A :class:`~side_by_side.workers.Worker`, or what stands in for one."""

    package: str

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """Return the answer to a request; raises WorkerError."""


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes
    ----------
    turns : int
        How often each variant has its turn.
    turn_seconds : float
        How long a turn lasts; at least one step, and ``most`` at most.
    most : int
    limit_seconds : float
        How long one answer may take, a first call with its compilation included.
    """

    turns: int = 7
    turn_seconds: float = 0.4
    most: int = 60
    limit_seconds: float = 180.0


@dataclass
class Row:
    """One variant of one package on one problem; None is what was not measured.

    Attributes
    ----------
    forward_ms, backward_ms, step_ms : float or None
        Medians over all steps of all turns.
    spread : list of float or None
        First and third quartile of ``step_ms``.
    compile_s : float or None
        What the first step took longer than a steady one.
    gradient_error : float or None
        The largest difference from the reference, relative to its largest entry; of dL/dθ
        or dL/dy0, whichever is worse.
    note : str or None
        Why there is no time.
    cpus : float or None
        Processors in use at once while it was timed; 1 on a quiet machine.
    """

    problem: str
    observations: int
    package: str
    variant: str
    dtype: str = "float32"
    forward_ms: float | None = None
    backward_ms: float | None = None
    step_ms: float | None = None
    spread: list[float] | None = None
    compile_s: float | None = None
    nfe_forward: int | None = None
    nfe_backward: int | None = None
    loss: float | None = None
    gradient_error: float | None = None
    note: str | None = None
    cpus: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, which knows no NaN and no infinity."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@dataclass
class _Entrant:
    """A variant that is being measured."""

    worker: Asked
    row: Row
    first_s: float = math.nan
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.row.note is None

    def finish(self) -> None:
        """Put the medians into the row."""
        if not self.answers:
            return

        def all_ms(part: str) -> Any:
            return 1e3 * np.concatenate([answer[part] for answer in self.answers])

        steps = all_ms("step_s")
        self.row.step_ms = float(np.median(steps))
        self.row.forward_ms = float(np.median(all_ms("forward_s")))
        self.row.backward_ms = float(np.median(all_ms("backward_s")))
        self.row.spread = [float(np.percentile(steps, share)) for share in (25, 75)]
        self.row.compile_s = max(0.0, self.first_s - 1e-3 * self.row.step_ms)
        self.row.cpus = float(np.median([answer["cpus"] for answer in self.answers]))


def alternating(entrants: Iterable[Any], package: Callable[[Any], str]) -> list[Any]:
    """Order entrants so that packages take turns: A, B, C, A, B, C, ...

    What disturbs the machine for a moment then disturbs all of them.
    """
    by_package: dict[str, list[Any]] = {}
    for entrant in entrants:
        by_package.setdefault(package(entrant), []).append(entrant)
    rounds = max(map(len, by_package.values()), default=0)
    return [own[i] for i in range(rounds) for own in by_package.values() if i < len(own)]


def measure(
    problem: Problem, workers: Sequence[Asked], reference: Path, budget: Budget
) -> list[Row]:
    """Check and time every variant of every package on one problem.

    Parameters
    ----------
    problem : Problem
    workers : sequence of Worker
    reference : Path
        The problem's gradient in float64.
    budget : Budget

    Returns
    -------
    list of Row
        By package, in the order of ``workers``.
    """
    what = {"problem": [problem.name, problem.observations]}
    entrants = []
    for worker in workers:
        names, note = ["all"], None
        try:
            names = worker.ask({"do": "variants", **what}, budget.limit_seconds)["variants"]
        except WorkerError as error:
            note = f"failed: {error}"
        for name in names:
            row = Row(problem.name, problem.observations, worker.package, name, note=note)
            entrants.append(_Entrant(worker, row))
    for entrant in entrants:
        if entrant.runs:
            _check(entrant, problem, {**what, "file": str(reference)}, budget)
    order = alternating(entrants, lambda entrant: entrant.row.package)
    for _ in range(budget.turns):
        for entrant in order:
            if entrant.runs:
                _time(entrant, what, budget)
    for entrant in entrants:
        entrant.finish()
    for worker in workers:
        try:
            worker.ask({"do": "forget"}, budget.limit_seconds)
        except WorkerError:  # the next request starts another, which has nothing to forget
            continue
    return [entrant.row for entrant in entrants]


def _check(entrant: _Entrant, problem: Problem, what: dict[str, Any], budget: Budget) -> None:
    row = entrant.row
    request = {"do": "prepare", "variant": row.variant, **what}
    try:
        found = entrant.worker.ask(request, budget.limit_seconds)
    except WorkerError as error:
        row.note = f"failed: {error}"
        return
    entrant.first_s = found["first_s"]
    row.loss = found["loss"]
    row.gradient_error = found["gradient_error"]
    row.nfe_forward, row.nfe_backward = found["nfe_forward"], found["nfe_backward"]
    bound = problem.gradient_bound
    for name in ("loss", "gradient"):
        off = found[f"{name}_error"]
        if not off <= bound:  # a NaN is wrong too
            row.note = f"wrong: its {name} is {off:.1e} off, and {bound:.0e} is allowed"
            return


def _time(entrant: _Entrant, what: dict[str, Any], budget: Budget) -> None:
    request = {
        "do": "time",
        "variant": entrant.row.variant,
        "seconds": budget.turn_seconds,
        "most": budget.most,
        **what,
    }
    try:
        entrant.answers.append(entrant.worker.ask(request, budget.limit_seconds))
    except WorkerError as error:
        entrant.row.note = f"failed: {error}"
