"""The compiler's product: kernels in order, over numbered buffers, as text.

The text is what Julia reads (``julia/PySemi/src/tape.jl``) and what a person reads in
``CompiledField.listing``: there is no second form of it. A line is one of::

    buffer 4 work Float32 1000 @ 64        number, role, element type, elements, place
    program field                          the instructions that follow belong to it
    %7[20,50] = matmul %2[20,2] %4[2,50|1,2|0]
    %7[20,50] = pointwise %7[20,50] %5[20,50|0,1|0] :: tanh(x1 + x2)
    %6[2,50] = matmul %3[2,20|1,2|0] %7[20,50] add      to what %6 holds
    buffer 8 record Float32 1000 @ 256     all records lie together, as all work space does

A view is ``%buffer[shape|strides|offset]`` in elements, in torch's order of dimensions;
strides and offset are left out where the view is the whole buffer, as it lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from pysemi.compiler.graph import contiguous_strides
from pysemi.compiler.scalar import JULIA_TYPES, Program

__all__ = ["SHARED", "Buffer", "Instruction", "Role", "Tape", "Window"]

Role = Literal[
    "t",
    "y",
    "cotangent",
    "params",
    "tensor",
    "constant",
    "dy",
    "y_bar",
    "params_bar",
    "record",
    "operand",
    "work",
]
"""What a buffer holds. Inputs: time, state, cotangent λ, packed parameters θ, tensors that
the vector field reads, constants; results: f, λᵀ∂f/∂y, λᵀ∂f/∂θ; what one program leaves for
another, see :class:`Tape`; and work space."""

SHARED = ("record", "work")
"""Roles whose buffers are pieces of one memory."""


@dataclass(frozen=True)
class Buffer:
    """A piece of memory of one element type.

    Attributes
    ----------
    number : int
    role : str
    dtype : torch.dtype
    size : int
        Number of elements.
    place : int
        Of a record or work space: first byte within the memory that all of the role share.
    value : Tensor or None
        Of a constant.
    """

    number: int
    role: Role
    dtype: torch.dtype
    size: int
    place: int = 0
    value: Tensor | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        text = f"buffer {self.number} {self.role} {JULIA_TYPES[self.dtype]} {self.size}"
        return f"{text} @ {self.place}" if self.role in SHARED else text


@dataclass(frozen=True)
class Window:
    """A view of a buffer, as an instruction names it."""

    buffer: Buffer
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def __str__(self) -> str:
        shape = ",".join(map(str, self.shape))
        size = 1
        for n in self.shape:
            size *= n
        plain = self.stride == contiguous_strides(self.shape)
        if plain and self.offset == 0 and size == self.buffer.size:
            return f"%{self.buffer.number}[{shape}]"
        return f"%{self.buffer.number}[{shape}|{','.join(map(str, self.stride))}|{self.offset}]"


@dataclass(frozen=True)
class Instruction:
    """One call of one kernel.

    Attributes
    ----------
    kernel : str
    out : Window
    args : tuple of Window
    words : tuple of str
        What else the kernel is told.
    program : Program or None
        Of a pointwise kernel.
    origin : str
        Module that asked for it; not part of the text that Julia reads.
    flops : int
        Estimated floating point operations.
    """

    kernel: str
    out: Window
    args: tuple[Window, ...] = ()
    words: tuple[str, ...] = ()
    program: Program | None = None
    origin: str = ""
    flops: int = 0

    def __str__(self) -> str:
        parts = [f"{self.out} = {self.kernel}", *map(str, self.args), *self.words]
        text = " ".join(parts)
        return text if self.program is None else f"{text} :: {self.program}"


@dataclass(frozen=True)
class Tape:
    """Programs over common buffers.

    Attributes
    ----------
    buffers : tuple of Buffer
    programs : dict of str to tuple of Instruction
        "field" computes f, or an event function's values; "pullback" f and λᵀ∂f/∂y; "joint"
        those and λᵀ∂f/∂θ. The same in parts: "record" computes f, and fills the buffers of
        role "record"; from these, "reverse" computes λᵀ∂f/∂y, and adds a part of λᵀ∂f/∂θ to
        what is there; and "gather" adds the rest, of buffers of roles "record", "operand" and
        "cotangent" alone. Its sums run over rows of these, so that those of several evaluations
        may be laid in line, each array's for itself, for one "gather".
    """

    buffers: tuple[Buffer, ...]
    programs: dict[str, tuple[Instruction, ...]]

    @classmethod
    def of_text(
        cls,
        buffers: tuple[Buffer, ...],
        programs: dict[str, tuple[Instruction, ...]],
        text: str,
    ) -> Tape:
        """A tape whose text is known, and need not be put together once more."""
        tape = cls(buffers, programs)
        vars(tape)["identity"] = text, _constants(buffers)
        return tape

    def of_role(self, role: Role) -> list[Buffer]:
        """The buffers that hold ``role``, in order."""
        return [buffer for buffer in self.buffers if buffer.role == role]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers; work space counts once, however often it is used."""
        ends = [0]
        held = 0
        for buffer in self.buffers:
            size = buffer.size * buffer.dtype.itemsize
            if buffer.role == "work":
                ends.append(buffer.place + size)
            else:
                held += size
        return held + max(ends)

    def __str__(self) -> str:
        lines = [str(buffer) for buffer in self.buffers]
        for name, instructions in self.programs.items():
            lines += [f"program {name}", *map(str, instructions)]
        return "\n".join(lines) + "\n"

    @cached_property
    def identity(self) -> tuple[str, bytes]:
        """Its text and its constants: tapes of equal identities compute the same."""
        return str(self), _constants(self.buffers)

    @property
    def listing(self) -> str:
        """The text, with the module each instruction comes from and its flops."""
        lines = [str(buffer) for buffer in self.buffers]
        for name, instructions in self.programs.items():
            total = sum(instruction.flops for instruction in instructions)
            lines += ["", f"program {name}  # {len(instructions)} kernels, {total:,} flops"]
            texts = [str(instruction) for instruction in instructions]
            width = min(max(map(len, texts), default=0), 88)
            for text, instruction in zip(texts, instructions, strict=True):
                origin = f"  {instruction.origin}" if instruction.origin else ""
                lines.append(f"  {text:<{width}}  # {instruction.flops:,} flops{origin}")
        return "\n".join(lines) + "\n"


def _constants(buffers: tuple[Buffer, ...]) -> bytes:
    values = (buffer.value for buffer in buffers if buffer.value is not None)
    return b"".join(value.numpy().tobytes() for value in values)
