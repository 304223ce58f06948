"""Event functions, as Julia asks for them."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from pysemi.errors import ArgumentError
from pysemi.problem import Problem
from pysemi.runtime.border import ForeignEventFunction

__all__ = ["Event"]


class Event:
    """The event function of a problem as a C function of the flat state.

    As in torchdiffeq, an event function of several values ends the solve when the first
    of them changes sign: each is made positive at the start, and the smallest counts.

    Attributes
    ----------
    address : int
        Of the C function; valid as long as this object lives.
    error : BaseException or None
        What the event function raised.
    """

    def __init__(self, problem: Problem) -> None:
        self.error: BaseException | None = None
        self._problem = problem
        self._signs = torch.sign(self._values(problem.t[0].detach(), problem.y0.detach()))
        kind = ctypes.c_float if problem.y0.dtype == torch.float32 else ctypes.c_double
        size, dtype, shape = problem.y0.numel(), problem.y0.dtype, problem.y0.shape

        def call(time: float, address: int) -> float:
            try:
                memory = (kind * size).from_address(address)
                y = torch.frombuffer(memory, dtype=dtype).clone().view(shape)
                value = float(
                    (self._values(torch.tensor(time, dtype=dtype), y) * self._signs).min()
                )
                if math.isnan(value):
                    raise ArgumentError("event_fn", f"is NaN at t = {time:.6g}")
            except BaseException as error:  # it cannot pass through Julia
                self.error = error
                return math.nan
            return value

        self._function = ForeignEventFunction(call)
        address = ctypes.cast(self._function, ctypes.c_void_p).value
        assert address is not None
        self.address = address

    def _values(self, t: Tensor, y: Tensor) -> Tensor:
        event_fn = self._problem.event_fn
        assert event_fn is not None
        with torch.no_grad():
            return event_fn(t.to(y.dtype), self._problem.layout.unflatten(y)).reshape(-1)
