"""Tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pysemi.experiments.section import Table

__all__ = ["show_table"]

_WIDEST = 1000
"""No table is wider, in characters."""


def show_table(table: Table) -> None:
    """Print a table with its title and notes; nothing is cut off where the terminal is narrow."""
    import rich.table
    from rich import box
    from rich.console import Console

    shown = rich.table.Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    console = Console(highlight=False)
    needed = Console(width=_WIDEST).measure(shown).maximum
    console.width = max(console.width, needed)
    with console.capture() as rendered:
        console.print(shown)
        for note in table.notes:
            console.print(note, soft_wrap=True)
    typer.echo(rendered.get())
