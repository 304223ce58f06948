"""Runs a tape's text on torch tensors: what Julia does with it, in a page of Python.

It reads the text and nothing else, so a tape that leaves something out fails here too.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "Float32": torch.float32,
    "Float64": torch.float64,
    "Int64": torch.int64,
    "Int32": torch.int32,
    "Int16": torch.int16,
    "Int8": torch.int8,
    "UInt8": torch.uint8,
    "Bool": torch.bool,
}
VIEW = re.compile(r"%(\d+)\[([\d,]*)(?:\|([\d,]*)\|(\d+))?\]")

SCALARS: dict[str, Any] = {
    **{name: getattr(torch, name) for name in ("tanh", "exp", "log", "sin", "cos", "sqrt", "abs")},
    **{
        name: getattr(torch, name) for name in ("sigmoid", "expm1", "log1p", "sign", "erf", "floor")
    },
    **{
        name: getattr(torch, name)
        for name in ("maximum", "minimum", "isnan", "exp2", "tan", "sinh")
    },
    **{name: getattr(torch, name) for name in ("isinf", "cosh", "atan", "asin", "acos", "erfc")},
    **{
        name: getattr(torch, name) for name in ("acosh", "asinh", "atanh", "atan2", "log2", "log10")
    },
    **{name: getattr(torch, name) for name in ("ceil", "round", "hypot", "copysign", "signbit")},
    **{name: getattr(torch, name) for name in ("lgamma", "digamma", "erfinv")},
    "erfcx": torch.special.erfcx,
    "trigamma": lambda x: torch.polygamma(1, x),
    "rem": torch.fmod,
    "xor": torch.bitwise_xor,
    "div": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "ifelse": torch.where,
    "inv": torch.reciprocal,
    "power": torch.pow,
    "both": torch.logical_and,
    "either": torch.logical_or,
    "negation": torch.logical_not,
    "modulo": torch.remainder,
    "wrap": lambda i, n: torch.where(i < 0, i + n, i),
    "trunc": lambda *x: torch.trunc(x[0]) if len(x) == 1 else x[1].to(x[0].dtype),
    "Inf": math.inf,
    "NaN": math.nan,
}


class Kind:
    """A Julia type: converts tensors and numbers when it is called."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, x: Any) -> Tensor:
        # A Python number would become a float32 first.
        return x.to(self.dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=self.dtype)


SCALARS |= {name: Kind(dtype) for name, dtype in DTYPES.items()}


class TapeMachine:
    """The memory of a tape, and its programs."""

    def __init__(self, text: str) -> None:
        self.memory: dict[int, Tensor] = {}
        self.roles: dict[str, list[Tensor]] = {}
        self.programs: dict[str, list[str]] = {}
        shared: dict[str, list[tuple[int, torch.dtype, int, int]]] = {"work": [], "record": []}
        program: list[str] = []
        for line in text.splitlines():
            words = line.split()
            if words[0] == "program":
                program = self.programs.setdefault(words[1], [])
            elif words[0] != "buffer":
                program.append(line)
            elif words[2] in shared:
                piece = (int(words[1]), DTYPES[words[3]], int(words[4]), int(words[6]))
                shared[words[2]].append(piece)
            else:
                memory = torch.zeros(int(words[4]), dtype=DTYPES[words[3]])
                self.memory[int(words[1])] = memory
                self.roles.setdefault(words[2], []).append(memory)
        self.work, self.record = (self._pieces(shared[role]) for role in ("work", "record"))
        self.work_bytes = len(self.work) - 8

    def _pieces(self, pieces: list[tuple[int, torch.dtype, int, int]]) -> Tensor:
        """The memory that all buffers of one role share."""
        nbytes = max((at + size * kind.itemsize for _, kind, size, at in pieces), default=0)
        memory = torch.full((nbytes + 8,), 0x7F, dtype=torch.uint8)
        for number, kind, size, at in pieces:
            self.memory[number] = memory[at : at + size * kind.itemsize].view(kind)
        return memory

    def run(self, program: str) -> None:
        """Run the instructions of one program."""
        for line in self.programs[program]:
            text, _, expression = line.partition(" :: ")
            out, _, call = text.partition(" = ")
            kernel, *words = call.split()
            views = [self._view(word) for word in words if word.startswith("%")]
            rest = [word for word in words if not word.startswith("%")]
            getattr(self, f"_{kernel}")(self._view(out), views, rest, expression)

    def operands(self) -> dict[int, Tensor]:
        """Copies of what the program "gather" reads, by number of the buffer."""
        numbers = {
            int(match[1])
            for line in self.programs["gather"]
            for match in VIEW.finditer(line.partition(" = ")[2])
        }
        return {number: self.memory[number].clone() for number in numbers}

    def gather(self, evaluations: list[dict[int, Tensor]]) -> None:
        """Run the program "gather" once, on the operands of several evaluations in line."""
        lines = {
            number: torch.cat([operands[number] for operands in evaluations])
            for number in evaluations[0]
        }
        here, self.memory = self.memory, {**self.memory, **lines}
        count = len(evaluations)
        for line in self.programs["gather"]:
            out, _, call = line.partition(" = ")
            kernel, *words = call.split()
            texts = [word for word in words if word.startswith("%")]
            rows = (1, 0) if kernel == "matmul" else (0,)
            views = [
                self._in_line(self._view(text, whole=False), dim, count)
                for text, dim in zip(texts, rows, strict=True)
            ]
            to = self._view(out)
            if kernel == "reduce":  # its result has the operand's shape
                assert to.stride(0) == 0 or to.shape[0] == 1
                to = to.as_strided(views[0].shape, (0, *to.stride()[1:]), to.storage_offset())
            rest = [word for word in words if not word.startswith("%")]
            getattr(self, f"_{kernel}")(to, views, rest, "")
        self.memory = here

    def _in_line(self, view: Tensor, dim: int, count: int) -> Tensor:
        """``view`` of the first of several arrays in line, with the rows of all of them."""
        size = view.untyped_storage().nbytes() // view.element_size() // count
        rows = view.shape[dim]
        shape, stride = list(view.shape), list(view.stride())
        shape[dim] *= count
        stride[dim] = size if rows == 1 else stride[dim]
        assert rows * stride[dim] == size
        return view.as_strided(shape, stride, view.storage_offset())

    def _view(self, text: str, whole: bool = True) -> Tensor:
        match = VIEW.fullmatch(text)
        assert match, text
        memory = self.memory[int(match[1])]
        shape = [int(n) for n in match[2].split(",") if n]
        if match[3] is None:
            assert not whole or math.prod(shape) == len(memory)
            return memory[: math.prod(shape)].view(shape)
        strides = [int(n) for n in match[3].split(",") if n]
        return memory.as_strided(shape, strides, memory.storage_offset() + int(match[4]))

    def _pointwise(self, out: Tensor, views: list[Tensor], _words: Any, expression: str) -> None:
        names: dict[str, Any] = {f"x{i}": view for i, view in enumerate(views, start=1)}
        *named, last = expression.split("; ")
        for statement in named:
            name, _, text = statement.partition(" = ")
            names[name] = eval(text, {"__builtins__": {}, **SCALARS}, names)
        value = eval(last, {"__builtins__": {}, **SCALARS}, names)
        # Written only after everything was read, and of the type that the buffer has.
        assert value.dtype == out.dtype, (expression, value.dtype, out.dtype)
        out.copy_(value.clone())

    def _matmul(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        product = views[0] @ views[1]
        out.copy_(out + product if words == ["add"] else product)

    def _reduce(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        over = [
            d
            for d, (n, s) in enumerate(zip(out.shape, out.stride(), strict=True))
            if s == 0 and n != 1
        ]
        if words[0] == "prod":
            result = views[0]
            for d in over:
                result = result.prod(d, keepdim=True)
        else:
            function = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[words[0]]
            result = function(views[0], dim=over, keepdim=True)
        narrow = out.as_strided(result.shape, out.stride(), out.storage_offset())
        narrow.copy_(narrow + result if "add" in words else result)

    def _window(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        source, where = views
        step, count = map(int, words)
        index = int(where)
        assert 0 <= index < count
        offset = source.storage_offset() + index * step
        out.copy_(source.as_strided(source.shape, source.stride(), offset).reshape(out.shape))

    def _take(self, out: Tensor, views: list[Tensor], _words: Any, _none: str) -> None:
        source, where = views
        out.copy_(source.reshape(-1)[where.reshape(-1)].view(out.shape))

    def _put(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        where, values = views
        where, values = where.reshape(-1), values.reshape(-1)
        how = {"add": "sum", "prod": "prod", "max": "amax", "min": "amin"}.get(words[0])
        if how is None:
            out.view(-1).index_put_((where,), values)
        else:
            out.view(-1).scatter_reduce_(0, where, values, how)

    def _solve(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        matrix, right = views
        out.copy_(torch.linalg.solve(matrix.mT if words == ["transposed"] else matrix, right))

    def _factor(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        (matrix,) = views
        if words == ["cholesky"]:
            out.copy_(torch.linalg.cholesky_ex(matrix)[0])
            return
        n = matrix.shape[-1]
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        permutation, _, _ = torch.lu_unpack(factors, pivots, unpack_data=False)
        out[..., :n, :] = factors
        out[..., n, :] = pivots
        out[..., n + 1, :] = permutation.argmax(-2)

    def _exponential(self, out: Tensor, views: list[Tensor], _words: Any, _none: str) -> None:
        out.copy_(torch.linalg.matrix_exp(views[0]))

    def _searchsorted(self, out: Tensor, views: list[Tensor], words: list[str], _none: str) -> None:
        values, edges = views
        out.copy_(torch.bucketize(values, edges, right=words == ["right"]))
