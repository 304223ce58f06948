"""What pysemi means to reach, and how far a run's rows got.

Ratios of the time of a training step's solves, between rows of one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from side_by_side.measure import Row

__all__ = ["TARGETS", "Outcome", "Ratio", "outcomes"]


@dataclass(frozen=True)
class Ratio:
    """pysemi's fastest variant against the fastest of some of a peer's.

    Attributes
    ----------
    against : str
        The peer's package.
    variants : tuple of str
        Of these; none: of all.
    label : str
        How a table calls it.
    is_share : bool
        Whether it is pysemi's time as a share of the peer's (less is better), instead of how
        many times as fast pysemi is.
    """

    against: str
    variants: tuple[str, ...]
    label: str
    is_share: bool = False


_FASTEST = Ratio(
    "torchdiffeq", ("odeint", "adjoint-seminorm"), "times as fast as torchdiffeq's fastest"
)
_SEMINORM = Ratio(
    "torchdiffeq", ("adjoint-seminorm",), "times as fast as torchdiffeq's adjoint with seminorm"
)
_DIFFRAX = Ratio("diffrax", (), "share of Diffrax's fastest time", is_share=True)

TARGETS: dict[str, dict[Ratio, float | None]] = {
    "a": {_FASTEST: 25, _SEMINORM: 100, _DIFFRAX: 0.4},
    "b": {_FASTEST: 25, _SEMINORM: None, _DIFFRAX: 0.5},
    "c": {_FASTEST: 1.3, _SEMINORM: 3, _DIFFRAX: 1.0},
    "d": {_FASTEST: 25, _SEMINORM: 100, _DIFFRAX: 0.4},
    "e-50k": {_FASTEST: None, _SEMINORM: None, _DIFFRAX: 0.5},
    "e-500k": {_FASTEST: None, _SEMINORM: None, _DIFFRAX: 0.5},
    "e-5M": {_FASTEST: None, _SEMINORM: 5, _DIFFRAX: 0.5},
    "f-small": {_FASTEST: 12, _SEMINORM: None, _DIFFRAX: 0.5},
    "f-large": {_FASTEST: 1.3, _SEMINORM: 3, _DIFFRAX: 1.0},
    "g": {_FASTEST: 1.3, _SEMINORM: 3, _DIFFRAX: 1.0},
}

_MANY_OBSERVATIONS_ONLY = {("a", _SEMINORM), ("d", _SEMINORM)}
"""Where each observation restarts the adjoint's solver: with two there are no restarts."""


@dataclass(frozen=True)
class Outcome:
    """One ratio on one problem.

    Attributes
    ----------
    problem, observations
    ratio : Ratio
    value : float or None
        None if one side has no time.
    target : float or None
        None where nothing is aimed at.
    mine, theirs : Row or None
        The rows that were compared.
    """

    problem: str
    observations: int
    ratio: Ratio
    value: float | None
    target: float | None
    mine: Row | None
    theirs: Row | None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None if there is nothing to say."""
        if self.value is None or self.target is None:
            return None
        return self.value <= self.target if self.ratio.is_share else self.value >= self.target


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return every ratio of every problem that pysemi and the peer both were asked to solve."""
    found = []
    for problem, observations in dict.fromkeys((row.problem, row.observations) for row in rows):
        here = [row for row in rows if (row.problem, row.observations) == (problem, observations)]
        mine = _fastest(row for row in here if row.package == "pysemi")
        for ratio, target in TARGETS[problem].items():
            if (problem, ratio) in _MANY_OBSERVATIONS_ONLY and observations == 2:
                target = None
            peers = [
                row
                for row in here
                if row.package == ratio.against
                and (not ratio.variants or row.variant in ratio.variants)
            ]
            if not peers or not any(row.package == "pysemi" for row in here):
                continue
            theirs = _fastest(peers)
            value = _divide(mine, theirs) if ratio.is_share else _divide(theirs, mine)
            found.append(Outcome(problem, observations, ratio, value, target, mine, theirs))
    return found


def _fastest(rows: Iterable[Row]) -> Row | None:
    timed = [row for row in rows if row.step_ms is not None]
    return min(timed, key=lambda row: row.step_ms or 0.0, default=None)


def _divide(over: Row | None, under: Row | None) -> float | None:
    if over is None or under is None or over.step_ms is None or not under.step_ms:
        return None
    return over.step_ms / under.step_ms
