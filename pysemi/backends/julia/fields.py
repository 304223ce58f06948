"""Vector fields as Julia evaluates them: compiled to a tape, or by calling back into Python.

Both are a number that Julia holds a field under, and torch views of the memory that
Julia allocated for it. The memory lives as long as the object here does; it is read and
written only on the home thread, inside the job that also solves, so that two threads that
train with one field cannot mix their parameters.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from pysemi.compiler.compiled import Compilation, Kind, flat_field
from pysemi.compiler.evaluation import evaluate_joint
from pysemi.compiler.tape import SHARED, Tape
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import BackendUnavailableError
from pysemi.runtime.border import Border, ForeignProgram, Level, Status
from pysemi.runtime.session import Session
from pysemi.state import StateLayout

__all__ = [
    "Binding",
    "CallbackField",
    "CompiledField",
    "JuliaField",
    "built_field",
    "compiled_field",
]


class JuliaField(ABC):
    """A field that Julia holds.

    Attributes
    ----------
    number : int
        Under which Julia holds it.
    packed : int
        Length of the parameter vector, at least 1.
    dtype : torch.dtype
        Of the state.
    params_bar : Tensor
        Where Julia leaves dL/dθ, packed; the next solve by the field writes over it.
    error : BaseException or None
        What the vector field raised.
    bound : weakref to Binding, or None
        Whose tensors it read last.
    """

    bridge: ClassVar[str]
    number: int
    packed: int
    dtype: torch.dtype
    params_bar: Tensor
    error: BaseException | None = None
    bound: weakref.ref[Binding] | None = None

    @abstractmethod
    def bind(self, tensors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
        """Make the field read these tensors and parameters; on the home thread only."""

    def read_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Cut dL/dθ into the parameters' gradients; right after a solve, on the home thread only.

        Parameters
        ----------
        gradients : sequence of Tensor
            Contiguous, of the parameters' shapes.
        """
        address = self.params_bar.data_ptr()
        for gradient in gradients:
            ctypes.memmove(gradient.data_ptr(), address, gradient.nbytes)
            address += gradient.nbytes

    def _keep(self, session: Session, number: int) -> None:
        self.number = number
        weakref.finalize(self, session.release, number)


class CompiledField(JuliaField):
    """A tape's kernels in Julia."""

    bridge: ClassVar[str] = "compiled"

    def __init__(self, session: Session, border: Border, tape: Tape) -> None:
        text = tape.identity[0].encode()
        number, kept = ctypes.c_int64(), ctypes.c_int64()
        addresses = (ctypes.c_void_p * len(tape.buffers))()
        status = border.call(
            "build",
            text,
            len(text),
            ctypes.addressof(number),
            ctypes.addressof(addresses),
            ctypes.addressof(kept),
        )
        if status is not Status.SUCCESS:
            raise Untranslatable(f"Julia cannot build its tape ({border.message()})")
        self._keep(session, number.value)
        if kept.value:
            session.compile_kernels(border.message())
        views = [
            None if buffer.role in SHARED else _as_tensor(address, buffer.dtype, buffer.size)
            for address, buffer in zip(addresses, tape.buffers, strict=True)
        ]
        of_role: dict[str, list[Tensor]] = {}
        for view, buffer in zip(views, tape.buffers, strict=True):
            if view is not None:
                of_role.setdefault(buffer.role, []).append(view)
                if buffer.value is not None:
                    view.copy_(buffer.value.reshape(-1))
        self.memory = {role: found[0] for role, found in of_role.items()}
        self.packed = len(self.memory["params"])
        self.params_bar = self.memory["params_bar"]
        self.dtype = self.memory["y"].dtype
        self._tensors = of_role.get("tensor", [])
        self._shapes: list[torch.Size] = []
        self._targets: list[Tensor] = []

    def bind(self, tensors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
        """Copy the tensors and parameters into Julia's memory.

        Every time: a weight changed through its ``data`` has the same version as before, and
        a copy costs less than one evaluation of a field that uses it.
        """
        given = [*tensors, *params]
        shapes = [x.shape for x in given]
        if shapes != self._shapes:
            self._shapes, self._targets = shapes, self._views(shapes, len(tensors))
        if not given:
            return
        if torch.is_grad_enabled():
            with torch.no_grad():
                torch._foreach_copy_(self._targets, given)
        else:  # as it is inside of autograd's functions
            torch._foreach_copy_(self._targets, given)

    def _views(self, shapes: Sequence[torch.Size], ntensors: int) -> list[Tensor]:
        """Julia's memory in the shapes of what is copied there."""
        pairs = zip(self._tensors, shapes[:ntensors], strict=True)
        views = [memory.view(shape) for memory, shape in pairs]
        offset = 0
        for shape in shapes[ntensors:]:
            piece = self.memory["params"][offset : offset + shape.numel()]
            views.append(piece.view(shape))
            offset += shape.numel()
        return views


class CallbackField(JuliaField):
    """A field that Julia asks Python to evaluate.

    What the vector field or its gradient raises is kept in ``error``; Julia then ends
    the solve, and the caller raises it again.
    """

    bridge: ClassVar[str] = "callback"

    def __init__(
        self,
        session: Session,
        border: Border,
        func: Callable[[Tensor, Any], Any],
        layout: StateLayout,
        y0: Tensor,
        params: Sequence[Tensor],
    ) -> None:
        self._field = flat_field(func, layout)
        self._params = tuple(params)
        self._shape = y0.shape
        self.dtype = y0.dtype
        self.packed = max(sum(param.numel() for param in params), 1)
        number = ctypes.c_int64()
        addresses = (ctypes.c_void_p * 7)()
        itself = weakref.ref(self)

        def call(level: int, time: float) -> int:
            field = itself()
            assert field is not None
            return field._evaluate(Level(level), time)

        self._function = ForeignProgram(call)
        pointer = ctypes.cast(self._function, ctypes.c_void_p)
        status = border.call(
            "foreign",
            int(y0.dtype == torch.float64),
            y0.numel(),
            self.packed,
            pointer,
            ctypes.addressof(number),
            ctypes.addressof(addresses),
        )
        if status is not Status.SUCCESS:
            raise BackendUnavailableError(f"Julia could not make the field: {border.message()}")
        self._keep(session, number.value)
        size = y0.numel()
        sizes = (1, size, size, self.packed, size, size, self.packed)
        self._t, self._y, self._cotangent, _, self._dy, self._y_bar, self.params_bar = (
            _as_tensor(address, y0.dtype, n) for address, n in zip(addresses, sizes, strict=True)
        )

    def bind(self, tensors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
        """Nothing: Python reads its own tensors."""

    def _evaluate(self, level: Level, time: float) -> int:
        try:
            # A copy: the vector field may keep what it is given.
            y = self._y.clone().view(self._shape)
            t = torch.tensor(time, dtype=y.dtype)
            if level is Level.FIELD:
                with torch.no_grad():
                    dy = self._field(t, y)
            else:
                cotangent = self._cotangent.clone().view(self._shape)
                wanted = self._params if level is Level.JOINT else ()
                dy, y_bar, *params_bar = evaluate_joint(self._field, t, y, cotangent, wanted)
                _store(self._y_bar, [y_bar], [y])
                if level is Level.JOINT:
                    _store(self.params_bar, params_bar, self._params)
            self._dy.copy_(dy.detach().reshape(-1))
        except BaseException as error:  # it cannot pass through Julia
            self.error = error
            return 1
        return 0


class Binding:
    """A field together with the tensors of one vector field, bound anew before each solve."""

    def __init__(
        self, field: JuliaField, tensors: Sequence[Tensor], params: Sequence[Tensor]
    ) -> None:
        self.field = field
        self._tensors = tuple(tensors)
        self._params = tuple(params)

    @property
    def calls_python(self) -> bool:
        """Whether Julia asks Python for each evaluation."""
        return self.field.bridge == "callback"

    def to(self, field: JuliaField) -> Binding:
        """Bind another field to the same tensors."""
        return Binding(field, self._tensors, self._params)

    @property
    def versions(self) -> tuple[int | None, ...]:
        """How often each tensor was changed in place; None where torch does not count it."""
        return tuple(
            None if x.is_inference() else x._version for x in (*self._tensors, *self._params)
        )

    def bind(self) -> None:
        """Inside Julia's home, right before a solve."""
        self.field.error = None
        self.field.bind(self._tensors, self._params)
        self.field.bound = weakref.ref(self)

    def bind_again(self) -> None:
        """Right before a solve backward: they lie there, unless another solve came between."""
        bound = self.field.bound
        if bound is None or bound() is not self:
            self.bind()
        self.field.error = None


_Key: TypeAlias = tuple[Kind, tuple[str, bytes], int]

_built: OrderedDict[_Key, CompiledField] = OrderedDict()

BUILT_KEPT = 64
"""Fields kept in Julia for tapes that may come again; the least recently used goes first."""


def compiled_field(
    session: Session, border: Border, compilation: Compilation, copy: int = 0
) -> CompiledField:
    """The field of a tape, built if Julia has none; on the home thread only.

    Parameters
    ----------
    copy : int
        Several solves at a time need fields of their own: which of them.
    """
    field = built_field(compilation, copy)
    if field is None:
        field = CompiledField(session, border, compilation.tape)
        _built[_key(compilation, copy)] = field
        while len(_built) > BUILT_KEPT:
            _built.popitem(last=False)
    return field


def built_field(compilation: Compilation, copy: int = 0) -> CompiledField | None:
    """The field of a tape if Julia has it; on any thread."""
    key = _key(compilation, copy)
    field = _built.get(key)
    if field is not None:
        with contextlib.suppress(KeyError):  # the home thread has just let go of it
            _built.move_to_end(key)
    return field


def _key(compilation: Compilation, copy: int) -> _Key:
    # An event function that has the tape of its vector field needs memory of its own: both are
    # evaluated in turn, and may read different tensors.
    return compilation.kind, compilation.tape.identity, copy


def _as_tensor(address: int | None, dtype: torch.dtype, size: int) -> Tensor:
    """A tensor over memory that Julia owns."""
    assert address is not None
    memory = (ctypes.c_byte * (size * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


def _store(out: Tensor, parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> None:
    """Write gradients one after the other, zeros where there is none."""
    offset = 0
    for part, x in zip(parts, like, strict=True):
        piece = out[offset : offset + x.numel()]
        if part is None:
            piece.zero_()
        else:
            piece.copy_(part.detach().reshape(-1))
        offset += x.numel()
