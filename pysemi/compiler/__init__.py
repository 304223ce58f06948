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

__all__ = ["CompiledField", "compile"]


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
        """How many kernels compute f and both its products."""
        return len(list(self.tape.programs.values())[-1])

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
    layout = StateLayout.of(y0)
    flat = layout.flatten(y0)
    if params is None:
        params = func.parameters() if isinstance(func, nn.Module) else ()
    wanted = tuple(param for param in params if param.requires_grad)
    try:
        made: tuple[Compilation, Any] = compile_field(
            func, layout, torch.tensor(t, dtype=flat.dtype), flat.detach(), wanted
        )
    except Untranslatable as reason:
        raise CompileError(
            f"{describe_callable(func)} cannot be compiled: {reason.what}"
        ) from reason
    return CompiledField(made[0].tape, made[0].seconds)
