"""Along which the cost of a solve may grow: one problem, with one number of it varied."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from side_by_side.problems import Problem, autonomous

__all__ = ["AXES", "Axis"]


@dataclass(frozen=True)
class Axis:
    """One number of a problem, and the values that it takes.

    Attributes
    ----------
    what : str
        For tables and plots.
    values : tuple of int
    problem : callable
        Value -> the problem.
    """

    what: str
    values: tuple[int, ...]
    problem: Callable[[int], Problem]


_small = partial(autonomous, widths=(4, 32, 4), activations=("softplus", "tanh"), gain=1.0, seed=4)
"""Problem d's network."""


def _parameters(count: int) -> Problem:
    # Problem e: w² + 6 w + 2 of them.
    width = round(math.sqrt(count + 7) - 3)
    return autonomous("parameters", 2, widths=(2, width, width, 2), batch=1, horizon=5.0, gain=1.5)


def _state(size: int) -> Problem:
    return autonomous("state", 2, widths=(size, 64, 64, size), batch=1, horizon=5.0, gain=1.5)


AXES = {
    "parameters": Axis("parameters", (50_000, 160_000, 500_000, 1_600_000, 5_000_000), _parameters),
    "state": Axis("size of the state", (4, 16, 64, 256, 1024), _state),
    "horizon": Axis(
        "length of the interval",
        (25, 50, 100, 200, 400),
        lambda length: _small("horizon", 2, batch=64, horizon=float(length)),
    ),
    "observations": Axis(
        "observation times",
        (2, 10, 100, 1000),
        lambda count: _small("observations", count, batch=64, horizon=100.0),
    ),
    "batch": Axis(
        "batch",
        (4, 16, 64, 256, 1024),
        lambda size: _small("batch", 2, batch=size, horizon=100.0),
    ),
}
