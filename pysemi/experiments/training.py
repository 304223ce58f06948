"""One run: train a task's model with one norm and one seed, and keep the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from pysemi.experiments.run_directory import Checkpoint, EpochRecord, RunConfig, RunDirectory
from pysemi.experiments.task import Task
from pysemi.stats import SolveStats, record

__all__ = ["Progress", "train"]


class Progress(Protocol):
    """Is told how a run gets on."""

    def run_started(self, config: RunConfig, metric_name: str, batches: int, done: int) -> None:
        """A run of so many batches begins, of which some were done earlier."""

    def batch_ended(self, loss: float, backward_nfe: int) -> None:
        """One more batch was trained on; the NFE is this batch's."""

    def epoch_ended(self, epoch: EpochRecord) -> None:
        """One more epoch was trained, evaluated and saved."""

    def run_ended(self, config: RunConfig, result: Mapping[str, Any]) -> None:
        """The run is complete, or was found to be."""


def train(
    task: Task,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,
) -> dict[str, Any]:
    """Train from the last finished epoch to the end, and return the run's summary row.

    The model's initial values and the order of the data depend on the seed
    alone, and the random state is kept with each checkpoint: a run that was
    interrupted ends with the metrics of one that was not.

    Raises
    ------
    SolveError
        If a solve fails; the epochs before it are kept.
    ResumeError
        If the checkpoint is damaged.
    """
    settings = config.settings
    torch.manual_seed(config.seed)
    model = task.model(
        {
            "rtol": settings["rtol"],
            "atol": settings["atol"],
            "adjoint_options": {"norm": config.norm},
            "backend": config.backend,
        }
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    history: list[EpochRecord] = []
    checkpoint = directory.load_checkpoint()
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(dict(checkpoint.optimizer))
        torch.set_rng_state(checkpoint.random_state)
        history = list(checkpoint.history)
    batches = task.batches_per_epoch
    progress.run_started(
        config, task.metric_name, settings["epochs"] * batches, len(history) * batches
    )
    for epoch in range(len(history) + 1, settings["epochs"] + 1):
        losses, solves, seconds = _train_epoch(task, model, optimizer, config.seed, epoch, progress)
        with torch.no_grad():
            metric = task.evaluate(model)
        history.append(_epoch_record(epoch, losses, metric, solves, seconds))
        directory.save_epoch(
            Checkpoint(
                model.state_dict(), optimizer.state_dict(), torch.get_rng_state(), tuple(history)
            ),
            solves,
        )
        progress.epoch_ended(history[-1])
    result = _summary_row(task, config, model, history)
    directory.finish(result, history)
    progress.run_ended(config, result)
    return result


def _train_epoch(
    task: Task,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    seed: int,
    epoch: int,
    progress: Progress,
) -> tuple[list[float], list[SolveStats], float]:
    order = torch.Generator().manual_seed(_order_seed(seed, epoch))
    losses: list[float] = []
    solves: list[SolveStats] = []
    started = time.perf_counter()
    for batch in task.batches(order):
        with record() as recording:
            loss = task.loss(model, batch)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        solves += [*recording.forward, *recording.backward]
        progress.batch_ended(losses[-1], sum(solve.nfe for solve in recording.backward))
    return losses, solves, time.perf_counter() - started


def _order_seed(seed: int, epoch: int) -> int:
    # Every epoch has an order of its own, which a resumed run finds again.
    return seed * 1_000_003 + epoch


def _epoch_record(
    epoch: int, losses: list[float], metric: float, solves: list[SolveStats], seconds: float
) -> EpochRecord:
    backward = [solve for solve in solves if solve.direction == "backward"]
    return EpochRecord(
        epoch=epoch,
        loss=sum(losses) / len(losses),
        metric=metric,
        forward_nfe=sum(solve.nfe for solve in solves if solve.direction == "forward"),
        backward_nfe=sum(solve.nfe for solve in backward),
        accepted=sum(solve.accepted or 0 for solve in backward),
        rejected=sum(solve.rejected or 0 for solve in backward),
        seconds=seconds,
    )


def _summary_row(
    task: Task, config: RunConfig, model: torch.nn.Module, history: list[EpochRecord]
) -> dict[str, Any]:
    return {
        "experiment": config.experiment,
        "preset": config.preset,
        "norm": config.norm,
        "seed": config.seed,
        "backend": config.backend,
        "rtol": config.settings["rtol"],
        "atol": config.settings["atol"],
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "epochs": len(history),
        "metric_name": task.metric_name,
        "metric": history[-1].metric,
        "loss": history[-1].loss,
        "forward_nfe": sum(epoch.forward_nfe for epoch in history),
        "backward_nfe": sum(epoch.backward_nfe for epoch in history),
        "accepted": sum(epoch.accepted for epoch in history),
        "rejected": sum(epoch.rejected for epoch in history),
        "seconds": sum(epoch.seconds for epoch in history),
    }
