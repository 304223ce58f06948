"""The C functions of PySemi.jl, and the structs that they take.

The other side is ``julia/PySemi/src/border.jl``: layouts, statuses and meanings are the
same, and sizes are compared when Julia starts. Calls release Python's lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import c_double, c_int32, c_int64, c_void_p
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pysemi.errors import BackendUnavailableError

__all__ = [
    "Border",
    "CBackward",
    "CForward",
    "CReport",
    "CSettings",
    "CStop",
    "ForeignEventFunction",
    "ForeignNormFunction",
    "ForeignProgram",
    "Level",
    "Status",
    "repeated",
]


class Status(IntEnum):
    """How a call ended."""

    SUCCESS = 0
    FAILED = 1
    STOPPED = 2
    FOREIGN = 3
    NON_FINITE = 4
    UNDERFLOW = 5
    EXHAUSTED = 6
    UNKNOWN_ALGORITHM = 7
    EVENT_IS_NAN = 8
    NOT_DISCRETE = 9
    RESULT_NOT_FINITE = 10
    COTANGENT_NOT_FINITE = 11


class Level(IntEnum):
    """Programs of a field; each computes what those before it do, the last in parts."""

    FIELD = 1
    PULLBACK = 2
    JOINT = 3
    PARTS = 4


class CSettings(ctypes.Structure):
    """One direction's settings."""

    _fields_ = [
        ("algorithm", c_void_p),
        ("rtol", c_void_p),
        ("nrtol", c_int64),
        ("atol", c_void_p),
        ("natol", c_int64),
        ("components", c_void_p),
        ("ncomponents", c_int64),
        ("weights", c_void_p),
        ("nweights", c_int64),
        ("norm", c_void_p),
        ("maxiters", c_int64),
        ("torchdiffeq", c_int64),
        ("first_step", c_double),
        ("safety", c_double),
        ("ifactor", c_double),
        ("dfactor", c_double),
        ("jumps", c_void_p),
        ("njumps", c_int64),
        ("steps", c_void_p),
        ("nsteps", c_int64),
    ]


class CForward(ctypes.Structure):
    """A forward solve."""

    _fields_ = [
        ("settings", CSettings),
        ("times", c_void_p),
        ("ntimes", c_int64),
        ("y0", c_void_p),
        ("y", c_void_p),
        ("keep", c_int64),
        ("checkpoints", c_int64),
        ("recording", c_int64),
        ("stop", c_void_p),
        ("event", c_void_p),
        ("event_field", c_int64),
    ]


class CBackward(ctypes.Structure):
    """A backward solve."""

    _fields_ = [
        ("solution", c_int64),
        ("settings", CSettings),
        ("adjoint", c_int64),
        ("times", c_void_p),
        ("ntimes", c_int64),
        ("cotangents", c_void_p),
        ("y_bar", c_void_p),
        ("params_bar", c_void_p),
        ("recording", c_int64),
        ("stop", c_void_p),
    ]


class CReport(ctypes.Structure):
    """What a solve did."""

    _fields_ = [
        ("status", c_int32),
        ("solution", c_int64),
        ("nf", c_int64),
        ("nvjp", c_int64),
        ("accepted", c_int64),
        ("rejected", c_int64),
        ("t", c_double),
        ("dt", c_double),
        ("error_norm", c_double),
        ("evaluations", c_int64),
        ("steps", c_int64),
        ("rejections", c_int64),
        ("event_time", c_double),
        ("implicit", c_int64),
        ("times", c_int64),
        ("seconds", c_double),
    ]


class CStop(ctypes.Structure):
    """What a solve looks at to see whether it is to end; ``julia/PySemi/src/stopping.jl``."""

    _fields_ = [
        ("asked", c_int32),
        ("looks", c_int32),
        ("kind", c_void_p),
        ("value", c_void_p),
        ("traceback", c_void_p),
    ]


ForeignProgram = ctypes.CFUNCTYPE(c_int32, c_int32, c_double)
"""(level, t) -> 0, or 1 if it raised: a vector field that Python evaluates."""

ForeignNormFunction = ctypes.CFUNCTYPE(c_double, c_void_p, c_int64)
"""(pointer, length) -> the norm, or -1 if it raised."""

ForeignEventFunction = ctypes.CFUNCTYPE(c_double, c_double, c_void_p)
"""(t, pointer to y) -> the event function's value, NaN if it raised."""

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "message": (c_void_p, c_int64),
    "build": (c_void_p, c_int64, c_void_p, c_void_p, c_void_p),
    "foreign": (c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p),
    "evaluate": (c_int64, c_int64),
    "release": (c_int64,),
    "times": (c_int64, c_void_p, c_void_p, c_void_p, c_void_p),
    "forward": (c_void_p, c_void_p, c_int64, c_void_p, c_int64),
    "backward": (c_void_p, c_void_p, c_int64, c_void_p, c_int64),
    "interpolate": (c_int64, c_int64, c_void_p, c_int64, c_void_p, c_void_p),
}

_STRUCTS = (CForward, CBackward, CReport, CStop)


def repeated(
    request: ctypes.Structure, count: int, each: Mapping[str, NDArray[np.int64]]
) -> ctypes.Array[Any]:
    """An array of ``count`` requests, with members by name that are ``each`` its own."""
    requests: ctypes.Array[Any] = (type(request) * count)(request)
    if count > 1:
        rows: NDArray[Any] = np.frombuffer(memoryview(requests), dtype=np.dtype(type(request)))
        rows[1:] = rows[0]
        for name, values in each.items():
            rows[name] = values
    return requests


class Border:
    """The C functions, by name, to be called on the home thread.

    Parameters
    ----------
    entry_points : mapping
        ``PySemi.entry_points()``: addresses of the functions, sizes of the structs, and
        how many threads solves may be spread over.

    Attributes
    ----------
    threads : int

    Raises
    ------
    BackendUnavailableError
        If the two sides do not fit together.
    """

    def __init__(self, entry_points: Mapping[str, int]) -> None:
        for struct in _STRUCTS:
            theirs, ours = entry_points[f"sizeof {struct.__name__}"], ctypes.sizeof(struct)
            if theirs != ours:
                raise BackendUnavailableError(
                    f"PySemi.jl and pysemi do not fit together: {struct.__name__} has {theirs} "
                    f"bytes in Julia and {ours} in Python; reinstall pysemi"
                )
        self.threads = entry_points["threads"]
        self._functions = {
            name: ctypes.CFUNCTYPE(c_int32, *arguments)(entry_points[name])
            for name, arguments in _SIGNATURES.items()
        }

    def call(self, name: str, *arguments: Any) -> Status:
        """Call one function."""
        code = self._functions[name](*arguments)
        return Status(code) if code else Status.SUCCESS  # the enumeration takes its time

    def message(self) -> str:
        """Julia's words for the last failure, or what else a call's status does not say."""
        text = ctypes.create_string_buffer(4096)
        self._functions["message"](ctypes.addressof(text), len(text))
        return text.value.decode(errors="replace")
