"""A compilation as text, and back: JSON, which holds no code but arithmetic.

What comes back equals what was written, constants bit for bit. The text that Julia reads is in
it too: to put it together takes longer than all the rest.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from typing import Any

import torch
from torch import Tensor

from pysemi.compiler.compilation import Compilation, Subject
from pysemi.compiler.inventory import Inventory
from pysemi.compiler.scalar import JULIA_TYPES, Program, Reference
from pysemi.compiler.tape import Buffer, Instruction, Tape, Window

__all__ = ["FORMAT", "parse", "write"]

FORMAT = 1
"""Of what is written; part of the name that it is found under."""

_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in JULIA_TYPES}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

# Of pointwise programs, which Julia compiles.
_CHARACTERS = re.compile(r"[\w ()+\-*/%<>=!&|~^.,;]*", re.ASCII)
_TYPES = "|".join(JULIA_TYPES.values())
_NAMES_OF_NO_CALL = re.compile(
    rf"(?<![\w.])(?!(?:[xv]\d+|Inf|NaN|{_TYPES})\b)[A-Za-z_]\w*(?!\w|\()", re.ASCII
)


def write(compilation: Compilation) -> str:
    """The compilation as text; it must be shareable."""
    tape = compilation.tape
    windows: dict[Window, int] = {}
    programs: dict[Program, int] = {}
    instructions: dict[Instruction, int] = {}
    lists = {
        name: [instructions.setdefault(each, len(instructions)) for each in body]
        for name, body in tape.programs.items()
    }
    places = {buffer.number: index for index, buffer in enumerate(tape.buffers)}

    def window(x: Window) -> int:
        return windows.setdefault(x, len(windows))

    rows = [
        (
            x.kernel,
            window(x.out),
            [window(arg) for arg in x.args],
            x.words,
            None if x.program is None else programs.setdefault(x.program, len(programs)),
            x.origin,
            x.flops,
        )
        for x in instructions
    ]
    text, _ = tape.identity
    return json.dumps(
        {
            "kind": compilation.kind,
            "sources": compilation.sources,
            "params": compilation.param_sources,
            "text": text,
            "buffers": [_written_buffer(buffer) for buffer in tape.buffers],
            "tape": {
                "windows": [
                    (places[x.buffer.number], x.shape, x.stride, x.offset) for x in windows
                ],
                "scalars": [_written_program(program) for program in programs],
                "instructions": rows,
                "programs": lists,
            },
        },
        separators=(",", ":"),
        allow_nan=False,
    )


def parse(content: str, subject: Subject, inventory: Inventory) -> Compilation | None:
    """What :func:`write` wrote; None if it does not fit ``subject`` and its inventory."""
    try:
        found = json.loads(content)
        buffers = tuple(_read_buffer(*row) for row in found["buffers"])
        tape = Tape.of_text(buffers, _read_programs(found["tape"], buffers), found["text"])
        sources, params = tuple(found["sources"]), tuple(found["params"])
        made = Compilation(found["kind"], tape, sources, params, 0.0)
        return made if _is_arithmetic(found["text"]) and _fits(made, subject, inventory) else None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError):
        return None  # it was written by something else


def _is_arithmetic(text: str) -> bool:
    """Whether what Julia is to compile of it has calls, numbers and operators alone.

    Who can write to the folder cannot have a program run that way, or a file opened: there are
    no strings, modules or symbols.
    """
    programs = {line.partition(" :: ")[2] for line in text.split("\n")}
    return all(
        _CHARACTERS.fullmatch(program) and not _NAMES_OF_NO_CALL.search(program)
        for program in programs
    )


def _fits(made: Compilation, subject: Subject, inventory: Inventory) -> bool:
    """Whether the tape's memory has the sizes of what will be copied there."""
    pairs = zip(made.tape.of_role("tensor"), made.tensors(inventory), strict=True)
    if any(buffer.size != x.numel() or buffer.dtype != x.dtype for buffer, x in pairs):
        return False
    params = made.params(inventory)
    theirs = tuple(subject.params or ())
    packed = max(sum(x.numel() for x in params), 1)
    return (
        made.kind == subject.kind
        and len(params) == len(theirs)
        and all(x is theirs[index] for index, x in enumerate(params))
        and [buffer.size for buffer in made.tape.of_role("params")] == [packed]
    )


def _written_buffer(buffer: Buffer) -> tuple[Any, ...]:
    row = (buffer.number, buffer.role, _NAMES[buffer.dtype], buffer.size, buffer.place)
    return row if buffer.value is None else (*row, _written_array(buffer.value))


def _read_buffer(
    number: int, role: Any, dtype: str, size: int, place: int, value: Any = None
) -> Buffer:
    array = None if value is None else _read_array(*value)
    return Buffer(number, role, _DTYPES[dtype], size, place, array)


def _written_array(x: Tensor) -> tuple[Any, ...]:
    data = b64encode(x.detach().contiguous().numpy().tobytes()).decode()
    return _NAMES[x.dtype], tuple(x.shape), data


def _read_array(dtype: str, shape: list[int], data: str) -> Tensor:
    content = bytearray(b64decode(data, validate=True))
    if not content:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    return torch.frombuffer(content, dtype=_DTYPES[dtype]).view(shape)


def _written_program(program: Program) -> tuple[Any, ...]:
    statements = [
        (template, [(x.kind, x.index) if isinstance(x, Reference) else x for x in args])
        for template, args in program.statements
    ]
    return program.inputs, statements


def _read_program(inputs: int, statements: list[Any]) -> Program:
    return Program(
        inputs,
        tuple(
            (template, tuple(x if isinstance(x, str) else Reference(*x) for x in args))
            for template, args in statements
        ),
    )


def _read_programs(
    tape: dict[str, Any], buffers: tuple[Buffer, ...]
) -> dict[str, tuple[Instruction, ...]]:
    windows = [
        Window(buffers[place], tuple(shape), tuple(stride), offset)
        for place, shape, stride, offset in tape["windows"]
    ]
    scalars = [_read_program(*row) for row in tape["scalars"]]
    instructions = [
        Instruction(
            kernel,
            windows[out],
            tuple(windows[arg] for arg in args),
            tuple(words),
            None if scalar is None else scalars[scalar],
            origin,
            flops,
        )
        for kernel, out, args, words, scalar, origin, flops in tape["instructions"]
    ]
    return {
        name: tuple(instructions[place] for place in body)
        for name, body in tape["programs"].items()
    }
