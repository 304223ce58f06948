"""The runs at work, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pysemi.experiments.run_directory import EpochRecord, RunConfig

__all__ = ["LiveProgress"]


@dataclass
class _Bar:
    """One run's bar and what stands beside it."""

    number: Any
    metric_name: str
    loss: str = "–"
    metric: str = "–"
    nfe: int = 0

    def state(self) -> str:
        return f"loss {self.loss}  {self.metric_name} {self.metric}  bwd. NFE {self.nfe:,}"


class LiveProgress:
    """A bar for each run at work, with its loss, metric and NFE; a line per finished run.

    On stderr, so that what is piped away is the result alone. A context manager.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True, highlight=False)
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, _Bar] = {}

    def __enter__(self) -> LiveProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._shown.stop()

    def run_started(self, config: RunConfig, metric_name: str, batches: int, done: int) -> None:
        """Add a bar."""
        if not self._bars:
            self._shown.start()
        number = self._shown.add_task(config.label, total=batches, completed=done, state="")
        self._bars[config.label] = _Bar(number, metric_name)

    def batch_ended(self, config: RunConfig, loss: float, backward_nfe: int) -> None:
        """Move the run's bar."""
        bar = self._bars[config.label]
        bar.loss = f"{loss:.3f}"
        bar.nfe += backward_nfe
        self._shown.update(bar.number, advance=1, state=bar.state())

    def epoch_ended(self, config: RunConfig, epoch: EpochRecord) -> None:
        """Show the run's metric."""
        bar = self._bars[config.label]
        bar.metric = f"{epoch.metric:.3f}"
        self._shown.update(bar.number, state=bar.state())

    def run_ended(self, config: RunConfig, result: Mapping[str, Any]) -> None:
        """Take the run's bar away, and say in a line what it came to."""
        bar = self._bars.pop(config.label, None)
        if bar is not None:
            self._shown.remove_task(bar.number)
            if not self._bars:
                self._shown.stop()
        self._shown.console.print(f"{config.label}: {_said(result)}", soft_wrap=True)


def _said(result: Mapping[str, Any]) -> str:
    if "metric" not in result:  # nothing was trained to be measured by it
        return f"{result['seconds']:.0f} s"
    return (
        f"{result['metric_name']} {result['metric']:.4g}, "
        f"{result['backward_nfe']:,} backward NFE, {result['accepted']:,} steps accepted, "
        f"{result['rejected']:,} rejected, {result['seconds']:.0f} s"
    )
