"""Presets: an experiment's settings at one scale."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pysemi.errors import ArgumentError, describe

__all__ = ["Preset"]

_Preset = TypeVar("_Preset", bound="Preset")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What every experiment's preset has; experiments add their model's settings.

    Attributes
    ----------
    about : str
        One line for ``pysemi reproduce --list``.
    epochs, batch_size : int
    learning_rate, weight_decay : float
        Of AdamW.
    rtol, atol : float
        Tolerances of the forward and the backward solve.
    train_limit, test_limit : int or None
        Use at most so many series of each set; None for all.
    """

    about: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    rtol: float
    atol: float
    train_limit: int | None = None
    test_limit: int | None = None

    def settings(self) -> dict[str, Any]:
        """Every setting by name, as it is written to a run's configuration."""
        values = dataclasses.asdict(self)
        del values["about"]
        return values

    def override(self: _Preset, changes: Mapping[str, str]) -> _Preset:
        """Return a preset with some settings changed, their values given as text.

        Raises
        ------
        ArgumentError
            For a name this preset has not, or a value that does not fit.
        """
        hints = get_type_hints(type(self))
        known = self.settings()
        parsed = {}
        for name, text in changes.items():
            if name not in known:
                raise ArgumentError(
                    "--set", f"{describe(name)} is no setting; there are {', '.join(known)}"
                )
            parsed[name] = _parse(name, text, hints[name])
        return dataclasses.replace(self, **parsed)


def _parse(name: str, text: str, hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    try:
        value = hint(text)
    except ValueError as error:
        raise ArgumentError("--set", f"{name}={text} is no {hint.__name__}") from error
    if hint is not str and not value >= 0:  # not: NaN compares false
        raise ArgumentError("--set", f"{name}={text} is negative or no number")
    if hint is int and value == 0:
        raise ArgumentError("--set", f"{name}=0; give at least 1")
    return value
