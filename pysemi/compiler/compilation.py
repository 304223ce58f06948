"""What is compiled, and what it is compiled to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pysemi.compiler.evaluation import FlatField, evaluate_field, evaluate_joint
from pysemi.compiler.inventory import Inventory, take_inventory
from pysemi.compiler.tape import Tape
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["Compilation", "Kind", "Subject", "Versions", "versions"]

DTYPES = (torch.float32, torch.float64)
"""Of the states that can be compiled."""

Kind: TypeAlias = Literal["field", "event"]
"""A vector field, or an event function."""

Versions: TypeAlias = Sequence[int | None]
"""How often each tensor was changed in place; None where torch does not count it."""


@dataclass(frozen=True)
class Compilation:
    """What all vector fields, or all event functions, of one structure share.

    Attributes
    ----------
    kind : str
        Which of the two; the same tape may be made for both.
    tape : Tape
    sources : tuple of (int or Tensor)
        For each of the tape's buffers of role "tensor": which of the inventory's
        tensors it holds, or the tensor itself, where the walk did not find it.
    param_sources : tuple of int
        For each parameter, its place in the inventory.
    seconds : float
        Spent on tracing and lowering, or on finding it on disk.
    name : str or None
        Under which it is kept on disk.
    is_loaded : bool
        Whether it comes from there.
    """

    kind: Kind
    tape: Tape
    sources: tuple[int | Tensor, ...]
    param_sources: tuple[int, ...]
    seconds: float = field(compare=False)
    name: str | None = field(default=None, compare=False)
    is_loaded: bool = field(default=False, compare=False)

    @property
    def is_shareable(self) -> bool:
        """Whether it serves other functions of the structure too."""
        return all(isinstance(source, int) for source in self.sources)

    def tensors(self, inventory: Inventory) -> list[Tensor]:
        """The tensors that a function's tape reads, in the order of the buffers."""
        return [
            inventory.tensors[source] if isinstance(source, int) else source
            for source in self.sources
        ]

    def params(self, inventory: Inventory) -> list[Tensor]:
        """The parameters, in the order in which they are packed."""
        return [inventory.tensors[index] for index in self.param_sources]


@dataclass(frozen=True)
class Subject:
    """What is to be compiled.

    Attributes
    ----------
    kind : str
        A vector field and an event function may be the same object.
    func : callable
        As the user gave it.
    flat : callable
        ``func`` as a function of the flat state.
    params : sequence of Tensor or None
        Parameters whose gradients are wanted; None for the values alone.
    """

    kind: Kind
    func: Callable[[Tensor, Any], Any]
    flat: FlatField
    params: Sequence[Tensor] | None

    @property
    def parts(self) -> tuple[Any, ...]:
        """All that the compilation depends on, for an inventory to be taken of."""
        return self.func, tuple(self.params or ())

    def inventory(self) -> Inventory:
        """Take it apart."""
        return take_inventory(self.parts)

    def evaluate(self, t: Tensor, y: Tensor) -> None:
        """Run all the code that a trace would run, once."""
        y = y.detach().clone()  # which it may change
        if self.params is None:
            evaluate_field(self.flat, t.clone(), y)
        else:
            evaluate_joint(self.flat, t.clone(), y, torch.ones_like(y), self.params)

    def check(self, y: Tensor) -> None:
        """Refuse element types and devices that tapes do not have."""
        if y.dtype not in DTYPES:
            raise Untranslatable(f"a state of {y.dtype}")
        if y.device.type != "cpu":
            raise Untranslatable(f"a state on {y.device}")
        for param in self.params or ():
            if param.dtype != y.dtype:
                raise Untranslatable(f"a parameter of {param.dtype} with a state of {y.dtype}")

    def check_unchanged(self, before: Inventory, versions: Versions) -> None:
        """Refuse what changes its own Python state or tensors when it is called.

        Parameters
        ----------
        before : Inventory
            Taken before the call.
        versions : sequence of (int or None)
            Its :func:`versions`, of then.
        """
        after = self.inventory()
        if after.key != before.key:
            changed = before.changes(after) or ["its attributes"]
            named = ", ".join(path.removeprefix("[0].") for path in changed[:3])
            raise Untranslatable(f"calling it changes {named}, which a compiled call would not")
        tensors = zip(before.tensors, after.tensors, before.paths, versions, strict=True)
        for tensor, later, path, version in tensors:
            if tensor is not later or _version(tensor) != version:
                raise Untranslatable(f"calling it changes the tensor {path.removeprefix('[0].')}")


def versions(inventory: Inventory) -> Versions:
    """How often each tensor of ``inventory`` was changed in place until now."""
    return [_version(tensor) for tensor in inventory.tensors]


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
