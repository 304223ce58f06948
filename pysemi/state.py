"""The state of a solve: one tensor, or a tuple of tensors laid out in one vector.

Solvers see a single tensor. A tuple state is flattened once at the border and
handed back to the user's functions as views of that vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from pysemi.errors import ArgumentError, describe

__all__ = ["State", "StateLayout", "Tolerance", "check_derivative"]

State: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a vector field maps to its derivative: a tensor or a tuple of tensors."""

Tolerance: TypeAlias = float | Tensor | Sequence[float | Tensor]
"""A number, a tensor broadcast against the state, or one of these per component."""


@dataclass(frozen=True)
class StateLayout:
    """Shapes of the components of a state, and where each lies in the flat vector.

    A state that is a single tensor keeps its shape; ``flatten`` and
    ``unflatten`` then return it unchanged.

    Parameters
    ----------
    shapes : tuple of torch.Size
        One shape per component.
    is_tuple : bool
        Whether the user's state is a tuple.

    Examples
    --------
    >>> layout = StateLayout.of((torch.zeros(4, 2), torch.zeros(4)))
    >>> layout.flatten((torch.zeros(4, 2), torch.ones(4))).shape
    torch.Size([12])
    """

    shapes: tuple[torch.Size, ...]
    is_tuple: bool

    @classmethod
    def of(cls, y: State) -> StateLayout:
        """Return the layout of the state ``y``."""
        if isinstance(y, tuple):
            return cls(tuple(component.shape for component in y), is_tuple=True)
        return cls((y.shape,), is_tuple=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of channels in each component."""
        return tuple(shape.numel() for shape in self.shapes)

    def flatten(self, y: State) -> Tensor:
        """Concatenate the components of a tuple state; shape ``(sum(sizes),)``.

        Components of different floating dtypes are promoted to one, as
        ``torch.cat`` (and so torchdiffeq) does.
        """
        if not isinstance(y, tuple):
            return y
        return torch.cat([component.reshape(-1) for component in y])

    def with_first_dimension(self, length: int) -> StateLayout:
        """The layout of the same components with another first dimension."""
        return StateLayout(
            tuple(torch.Size((length, *shape[1:])) for shape in self.shapes), self.is_tuple
        )

    def flatten_each(self, y: State) -> Tensor:
        """:meth:`flatten` each entry of the first dimension, of which this layout has one.

        Returns
        -------
        Tensor
            Shape ``(B, sum(sizes))`` for a tuple state, ``(B, 1, *rest)`` for a single tensor.
        """
        if not isinstance(y, tuple):
            return y.unsqueeze(1)
        return torch.cat([component.reshape(len(component), -1) for component in y], dim=1)

    def components(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Views of the components of a flat state, whose leading dimensions are kept.

        Parameters
        ----------
        flat : Tensor
            Shape ``(*lead, sum(sizes))`` for a tuple state, ``(*lead, *shape)``
            for a single tensor.
        """
        if not self.is_tuple:
            return (flat,)
        lead = flat.shape[:-1]
        pieces = flat.split(self.sizes, dim=-1)
        return tuple(
            piece.view((*lead, *shape)) for piece, shape in zip(pieces, self.shapes, strict=True)
        )

    def unflatten(self, flat: Tensor) -> State:
        """Undo :meth:`flatten`; leading dimensions of ``flat`` are kept."""
        return self.components(flat) if self.is_tuple else flat

    def flatten_tolerance(self, name: str, tolerance: Tolerance) -> float | Tensor:
        """Spread a tolerance given per component over the flat state.

        Raises
        ------
        ArgumentError
            If the tuple has another length than the state, or an entry does not
            broadcast over its component.
        """
        if isinstance(tolerance, Real):
            return float(tolerance)
        if isinstance(tolerance, Tensor) and (tolerance.ndim == 0 or not self.is_tuple):
            if not self.is_tuple and not _spreads_over(tolerance.shape, self.shapes[0]):
                raise ArgumentError(
                    name,
                    f"has shape {tuple(tolerance.shape)}, which does not broadcast over a state of "
                    f"shape {tuple(self.shapes[0])}",
                )
            return tolerance
        if not self.is_tuple:
            raise ArgumentError(
                name, f"a {type(tolerance).__name__} of tolerances needs a tuple state"
            )
        entries: list[float | Tensor] = list(cast("Iterable[float | Tensor]", tolerance))
        if len(entries) != len(self.shapes):
            raise ArgumentError(
                name,
                f"has {len(entries)} entries, but the state has {len(self.shapes)} components; "
                "give one number for all, or one entry per component",
            )
        return torch.cat(
            [_spread(name, entry, shape) for entry, shape in zip(entries, self.shapes, strict=True)]
        )


def check_derivative(dy: Any, layout: StateLayout) -> None:
    """Refuse what a vector field must not return.

    Raises
    ------
    ArgumentError
        If ``dy`` has not the state's structure, or a shape that does not fit it.
    """
    components = dy if layout.is_tuple else (dy,)
    if not isinstance(components, (tuple, list)) or len(components) != len(layout.shapes):
        raise ArgumentError(
            "func",
            f"returned {describe(type(dy).__name__)} for a state of {len(layout.shapes)} "
            "components; return a tuple with one derivative per component",
        )
    for index, (component, shape) in enumerate(zip(components, layout.shapes, strict=True)):
        where = f"component {index} of what it returned" if layout.is_tuple else "what it returned"
        if not isinstance(component, Tensor):
            raise ArgumentError("func", f"{where} is {describe(component)}, not a tensor")
        fits = (
            component.numel() == shape.numel()
            if layout.is_tuple
            else _spreads_over(component.shape, shape)
        )
        if not fits:
            raise ArgumentError(
                "func",
                f"{where} has shape {tuple(component.shape)}, and the state has shape "
                f"{tuple(shape)}; dy/dt must have the shape of y",
            )


def _spreads_over(shape: torch.Size, target: torch.Size) -> bool:
    # torch.broadcast_shapes would import SymPy for it, for half a second.
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, wanted) for n, wanted in pairs)


def _spread(name: str, entry: float | Tensor, shape: torch.Size) -> Tensor:
    try:
        value = torch.as_tensor(entry)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(name, f"{describe(entry)} is no number") from error
    try:
        return value.expand(shape).reshape(-1)
    except RuntimeError as error:
        if value.numel() == shape.numel():
            return value.reshape(-1)
        raise ArgumentError(
            name, f"an entry of shape {tuple(value.shape)} does not fit a component {tuple(shape)}"
        ) from error
