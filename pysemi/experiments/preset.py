"""Presets: an experiment's settings at one scale."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pysemi.errors import ArgumentError, describe

__all__ = ["Preset"]

_NO_SETTINGS = ("about", "seeds", "variants")
"""Fields of a preset that are no part of what one run does."""

_Preset = TypeVar("_Preset", bound="Preset")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What every experiment's preset has; experiments add their model's settings.

    Attributes
    ----------
    about : str
        One line for ``pysemi reproduce --list``.
    seeds : int
        Runs of each kind, unless the user asks for another number.
    variants : mapping of str to mapping
        The rows of the experiment's table: by a short name, which settings have
        other values there. Without any there is one row, of the preset itself.
    epochs, batch_size : int
    learning_rate, weight_decay : float
        Of AdamW.
    rtol, atol : float
        Tolerances of the forward and the backward solve.
    train_limit, test_limit : int or None
        Use at most so many series of each set; None for all.
    """

    about: str
    seeds: int = 1
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
        return {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in _NO_SETTINGS
        }

    def variant(self: _Preset, name: str) -> _Preset:
        """The preset of one row of the table; ``""`` is the preset itself.

        Raises
        ------
        ArgumentError
            If there is no such variant.
        """
        if not name:
            return self
        try:
            changes = self.variants[name]
        except KeyError:
            raise ArgumentError(
                "--variant",
                f"{describe(name)} is no variant of this preset; there are "
                f"{', '.join(self.variants) or 'none'}",
            ) from None
        return dataclasses.replace(self, **changes, variants={})

    def override(self: _Preset, changes: Mapping[str, str]) -> _Preset:
        """Return a preset with some settings changed, their values given as text.

        What a user sets holds for every variant, and is added to the name of those that had
        another value of it.

        Raises
        ------
        ArgumentError
            For a name this preset has not, or a value that does not fit.
        """
        hints = get_type_hints(type(self))
        known = self.settings()
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        parsed = {}
        for name, text in changes.items():
            if name not in known:
                raise ArgumentError(
                    "--set", f"{describe(name)} is no setting; there are {', '.join(known)}"
                )
            parsed[name] = _parse(name, text, hints[name], defaults[name])
        variants = {}
        for name, settings in self.variants.items():
            taken = [f"{key}={changes[key]}" for key in settings if key in parsed]
            if settings and len(taken) == len(settings):
                continue  # nothing is left that made it a variant
            # A name that says what is not so any more says what is.
            variants[", ".join([name, *taken])] = {
                key: value for key, value in settings.items() if key not in parsed
            }
        return dataclasses.replace(self, **parsed, variants=variants)


def _parse(name: str, text: str, hint: Any, default: Any) -> Any:
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
    if hint is int and value == 0 and default != 0:
        raise ArgumentError("--set", f"{name}=0; give at least 1")
    return value
