"""How named values and problems are shown to a person."""

from __future__ import annotations

from collections.abc import Sequence

import typer

__all__ = ["show"]


def show(
    rows: Sequence[tuple[str, str]], problems: Sequence[str] = (), remedy: str | None = None
) -> None:
    """Print a line for each name and value, then the problems, then what to run.

    Lines are never cut or folded: what stands in them is there to be copied.
    """
    from rich.console import Console  # here: it takes a while, and --json needs none of it
    from rich.text import Text

    width = max((len(name) for name, _ in rows), default=0) + 2
    lines = [Text.assemble((name.ljust(width), "bold"), value) for name, value in rows]
    lines += [Text(f"✗ {problem}", style="red") for problem in problems]
    if remedy is not None:
        lines.append(Text(f"→ run: {remedy}", style="bold"))
    console = Console(highlight=False)
    # Rendered here but written by echo: rich would end the process by itself
    # where the reader has gone.
    with console.capture() as rendered:
        for line in lines:
            console.print(line, soft_wrap=True)
    typer.echo(rendered.get(), nl=False)
