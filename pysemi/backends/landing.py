"""Steps that land on a prescribed time, which torchdiffeq would not notice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["LandingGuard"]

NEARLY = 1e-9
"""A step that falls short of a time by this share of its length is meant to reach it."""

LONGER = 1 + 1e-6
"""By how much such a step is lengthened; torchdiffeq then cuts it at the time."""


class LandingGuard:
    """Lengthens a step that would end on a jump or step time, so that it is seen to.

    torchdiffeq 0.2.5 notices a time in ``jump_t`` or ``step_t`` only when a step
    would end strictly beyond it (``rk_common.py``, ``_adaptive_step``). A step
    that ends on it to the bit passes unnoticed, and so does every later one, as
    the solver goes on waiting for the first: the discontinuities after it are
    stepped over, at the price of rejections. Evenly spaced knots make this
    common, since a step whose error ratio lies between 0.59 and 1 is followed by
    one of the same length. A step that ends a rounding error short of the time
    costs some fifteen steps, each at most ten times the one before.

    Parameters
    ----------
    options : mapping
        The solver's, with ``jump_t`` and ``step_t`` as its callbacks count time.
    direction : int
        +1 if the solver's time runs the way its callbacks' time does, else -1.
    """

    def __init__(self, options: Mapping[str, Any], direction: int) -> None:
        given = [options.get(name) for name in ("jump_t", "step_t")]
        points = [
            torch.as_tensor(times, dtype=torch.float64).detach().flatten()
            for times in given
            if times is not None
        ]
        self._points = torch.cat(points) if points else None
        self._direction = direction

    def __call__(self, t: Tensor, dt: Tensor) -> None:
        """Lengthen ``dt`` in place if the step from ``t`` would end on a point."""
        if self._points is None:
            return
        # Where the state is on a GPU the points may have been given on the CPU.
        self._points = self._points.to(t.device)
        step = dt.detach()
        missing = self._direction * (self._points - t.detach()) - step
        if ((missing >= 0) & (missing <= NEARLY * step)).any():
            step.mul_(LONGER)
