"""What a report is made of: sections with tables, pictures and facts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Picture", "Section", "Table"]


@dataclass(frozen=True)
class Table:
    """A table to be shown on a terminal or a page.

    Attributes
    ----------
    title : str
    columns : tuple of str
        May have two lines.
    rows : tuple of tuple of str
        As many entries as columns.
    notes : tuple of str
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture to be shown on a page.

    Attributes
    ----------
    name : str
        Of its file, without the ending.
    title, caption : str
    png : bytes
    """

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def data(self) -> str:
        """The picture in base64, for a page that needs no other file."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Section:
    """One experiment's part of a report.

    Attributes
    ----------
    title, about : str
    tables : sequence of Table
    pictures : sequence of Picture
    facts : sequence of (str, str)
        How it was made: preset, seeds, machine, versions, ...
    commands : sequence of str
        That make the same again.
    """

    title: str
    about: str
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
