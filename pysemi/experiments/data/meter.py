"""A bar on the terminal for what takes minutes; nothing where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["meter"]


@contextmanager
def meter(
    about: str, *, total: int | None = None, done: int = 0, in_bytes: bool = False
) -> Iterator[Callable[[int], Any]]:
    """Yield a function that is told of so many more bytes or things done.

    The bar is on stderr, and only if that is a terminal.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich import progress
    from rich.console import Console

    amounts = (
        (progress.DownloadColumn(), progress.TransferSpeedColumn())
        if in_bytes
        else (progress.MofNCompleteColumn(),)
    )
    with progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=24),
        *amounts,
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    ) as bars:
        bar = bars.add_task(about, total=total, completed=done)
        yield lambda more: bars.advance(bar, more)


def _ignore(more: int) -> None:
    del more
