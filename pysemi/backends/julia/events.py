"""Event functions as Julia evaluates them: compiled to a tape, or by calling back into Python.

As in torchdiffeq, an event function of several values ends the solve when the first
of them changes sign: each is made positive at the start, and the smallest counts.
"""

from __future__ import annotations

import ctypes
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pysemi.backends.julia.bridge import by_bridge
from pysemi.backends.julia.fields import Binding
from pysemi.backends.julia.verification import bind_verified, event_disagreement
from pysemi.compiler.compiled import compile_event
from pysemi.compiler.inventory import describe_callable
from pysemi.problem import EventFunction, Problem
from pysemi.runtime.border import ForeignEventFunction
from pysemi.runtime.session import Session

__all__ = ["JuliaEvent", "prepare_event"]


class JuliaEvent(ABC):
    """An event function that Julia evaluates.

    Attributes
    ----------
    number : int
        Under which Julia holds the field that computes its values, or 0.
    address : int or None
        Of a C function of the flat state; valid as long as this object lives.
    error : BaseException or None
        What the event function raised.
    """

    number: int = 0
    address: int | None = None
    error: BaseException | None = None

    @abstractmethod
    def bind(self) -> None:
        """On the home thread, right before a solve."""


class CompiledEvent(JuliaEvent):
    """A tape's values."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.number = binding.field.number

    def bind(self) -> None:
        """Let the tape read the event function's tensors as they are now."""
        self._binding.bind()


class CallbackEvent(JuliaEvent):
    """A C function of the flat state that calls Python."""

    def __init__(self, event_fn: EventFunction, problem: Problem) -> None:
        self._event_fn = event_fn
        self._layout = problem.layout
        signs = torch.sign(self._values(problem.t[0].detach(), problem.y0.detach()))
        kind = ctypes.c_float if problem.y0.dtype == torch.float32 else ctypes.c_double
        size, dtype, shape = problem.y0.numel(), problem.y0.dtype, problem.y0.shape

        def call(time: float, address: int) -> float:
            try:
                memory = (kind * size).from_address(address)
                y = torch.frombuffer(memory, dtype=dtype).clone().view(shape)
                return float((self._values(torch.tensor(time, dtype=dtype), y) * signs).min())
            except BaseException as error:  # it cannot pass through Julia
                self.error = error
                return math.nan

        self._function = ForeignEventFunction(call)
        self.address = ctypes.cast(self._function, ctypes.c_void_p).value

    def bind(self) -> None:
        """Nothing: Python reads its own tensors."""

    def _values(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self._event_fn(t.to(y.dtype), self._layout.unflatten(y)).reshape(-1)


def prepare_event(
    running: Session, problem: Problem, event_fn: EventFunction, bridge: str, verify: str
) -> tuple[JuliaEvent, float]:
    """Compile the event function, or arrange for calls back into Python.

    Returns
    -------
    JuliaEvent
    float
        Seconds spent on what was not known before.
    """

    def compiled() -> tuple[JuliaEvent, float]:
        _, binding, seconds = bind_verified(
            running,
            lambda: compile_event(
                event_fn, problem.layout, problem.t[0].detach(), problem.y0.detach()
            ),
            lambda border, binding: event_disagreement(border, binding, problem, event_fn),
            verify,
        )
        return CompiledEvent(binding), seconds or 0.0

    return by_bridge(
        bridge,
        f"event_fn {describe_callable(event_fn)}",
        "It runs by callback: Julia calls Python at each step and in each iteration of the root "
        "finder",
        compiled,
        lambda: (CallbackEvent(event_fn, problem), 0.0),
    )
