"""Compiles vector fields and event functions to tapes of Julia kernels; needs no Julia to do so.

The path of a vector field: ``inventory`` (what it consists of), ``trace`` (torch's own
graph of f and its products), ``translate`` and ``ops`` (that graph in the compiler's form),
``fuse``, ``lower`` (kernels and memory), ``tape`` (the text that Julia reads).
``compiled`` ties them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pysemi.compiler.compiled import Compilation, compile_field
from pysemi.compiler.inventory import describe_callable
from pysemi.compiler.tape import Tape
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import CompileError
from pysemi.state import State, StateLayout

__all__ = ["CompiledField", "Explanation", "compile", "explain"]


@dataclass(frozen=True)
class CompiledField:
    """What a vector field is compiled to.

    Attributes
    ----------
    tape : Tape
        Its kernels and their memory.
    seconds : float
        What tracing and lowering took.
    """

    tape: Tape
    seconds: float

    @property
    def listing(self) -> str:
        """The tape as text: each kernel with its buffers, shapes, module and flops."""
        return self.tape.listing

    @property
    def kernels(self) -> int:
        """How many kernels compute f and both its products, or f alone if none are compiled."""
        programs = self.tape.programs
        return len(programs.get("joint", programs["field"]))

    def __repr__(self) -> str:
        (y,) = self.tape.of_role("y")
        return f"<CompiledField: {y.size} states, {self.kernels} kernels>"


def compile(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: float = 0.0,
    *,
    params: Iterable[Tensor] | None = None,
) -> CompiledField:
    """Compile a vector field as ``backend="julia"`` would, to look at the result.

    The compilation is remembered: a solve with the same structure, shapes and dtype uses it.

    Parameters
    ----------
    func : callable
        f(t, y) -> dy/dt.
    y0 : Tensor or tuple of Tensor
        A state; its shape and dtype count, and that ``func`` can be evaluated there.
    t : float
        A time at which ``func`` can be evaluated.
    params : iterable of Tensor, optional
        Tensors whose gradients are wanted; by default the module's parameters that
        require one.

    Raises
    ------
    CompileError
        Naming what cannot be translated: the operator, the line that looks at a tensor's
        value, or the attribute that a call changes.

    Examples
    --------
    >>> field = pysemi.compile(lambda t, y: torch.tanh(y), torch.zeros(5, 2))  # doctest: +SKIP
    >>> print(field.listing)  # doctest: +SKIP
    """
    try:
        made = _compilation(func, y0, t, params)
    except Untranslatable as reason:
        raise CompileError(
            f"{describe_callable(func)} cannot be compiled: {reason.what}"
        ) from reason
    return CompiledField(made.tape, made.seconds)


@dataclass(frozen=True)
class Explanation:
    """Whether a vector field compiles, and at what cost; ``print`` it.

    Attributes
    ----------
    name : str
        Of the vector field.
    reason : str or None
        Why it cannot be compiled: every operator without an entry, or the line or attribute.
    field : CompiledField or None
        What it is compiled to.
    """

    name: str
    reason: str | None
    field: CompiledField | None

    @property
    def bridge(self) -> str:
        """How Julia evaluates it: "compiled", or "callback" into Python."""
        return "callback" if self.field is None else "compiled"

    def __str__(self) -> str:
        if self.field is None:
            return (
                f'{self.name}: bridge "callback", Julia asks Python at each evaluation\n'
                f"  cannot be compiled: {self.reason}"
            )
        lines = [f'{self.name}: bridge "compiled"']
        for name, instructions in self.field.tape.programs.items():
            flops = sum(instruction.flops for instruction in instructions)
            lines.append(f"  {name:<9} {len(instructions):>5} kernels {flops:>14,} flops")
        lines.append(f"  memory    {self.field.tape.nbytes:>28,} bytes")
        return "\n".join(lines)


def explain(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: float = 0.0,
    *,
    params: Iterable[Tensor] | None = None,
) -> Explanation:
    """Say whether ``backend="julia"`` would compile a vector field, and why not or at what cost.

    The arguments are those of :func:`compile`. It raises what ``func`` itself raises, but
    nothing for a field that cannot be compiled.

    Examples
    --------
    >>> print(pysemi.explain(lambda t, y: y.cummax(0).values, torch.zeros(3)))  # doctest: +SKIP
    <lambda>: bridge "callback", Julia asks Python at each evaluation
      cannot be compiled: aten.cummax.default
    """
    name = describe_callable(func)
    try:
        made = _compilation(func, y0, t, params)
    except Untranslatable as reason:
        return Explanation(name, reason.what, None)
    return Explanation(name, None, CompiledField(made.tape, made.seconds))


def _compilation(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: float,
    params: Iterable[Tensor] | None,
) -> Compilation:
    layout = StateLayout.of(y0)
    flat = layout.flatten(y0)
    if params is None:
        params = func.parameters() if isinstance(func, nn.Module) else ()
    wanted = tuple(param for param in params if param.requires_grad)
    made, _ = compile_field(func, layout, torch.tensor(t, dtype=flat.dtype), flat.detach(), wanted)
    return made
