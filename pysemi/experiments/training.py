"""One run: train a task's model in one arm with one seed, and keep the record."""

from __future__ import annotations

import time
from statistics import mean
from typing import Any

import torch

from pysemi.experiments.arms import Arm
from pysemi.experiments.progress import Progress
from pysemi.experiments.run_directory import Checkpoint, EpochRecord, RunConfig, RunDirectory
from pysemi.experiments.task import Task
from pysemi.stats import SolveStats, record

__all__ = ["train"]


def train(
    task: Task,
    config: RunConfig,
    arm: Arm,
    directory: RunDirectory,
    progress: Progress,
) -> dict[str, Any]:
    """Train from the last finished epoch to the end, and return the run's summary row.

    The model's initial values and the order of the data depend on the seed
    alone, and the random state is kept with each checkpoint: a run that was
    interrupted ends with the metrics of one that was not. After the last epoch
    the trained model goes through the test set once more, forward and backward,
    for the steps that the paper's Table 4 counts.

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
            **arm.solver,
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
        losses, solves, seconds = _train_epoch(task, model, optimizer, config, epoch, progress)
        with torch.no_grad():
            metric = task.evaluate(model)
        history.append(_epoch_record(epoch, losses, metric, solves, seconds))
        directory.save_epoch(
            Checkpoint(
                model.state_dict(), optimizer.state_dict(), torch.get_rng_state(), tuple(history)
            ),
            solves,
        )
        progress.epoch_ended(config, history[-1])
    test = _test_solves(task, model)
    directory.save_test(test)
    directory.save_exhibits(task.exhibits(model))
    last_epoch = directory.solves(epoch=len(history))
    result = _summary_row(task, config, model, history, last_epoch, test)
    directory.finish(result, history)
    progress.run_ended(config, result)
    return result


def _train_epoch(
    task: Task,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    epoch: int,
    progress: Progress,
) -> tuple[list[float], list[SolveStats], float]:
    order = torch.Generator().manual_seed(_order_seed(config.seed, epoch))
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
        progress.batch_ended(config, losses[-1], sum(solve.nfe for solve in recording.backward))
    return losses, solves, time.perf_counter() - started


def _test_solves(task: Task, model: torch.nn.Module) -> list[SolveStats]:
    solves: list[SolveStats] = []
    for batch in task.test_batches():
        with record() as recording:
            task.loss(model, batch).backward()
        solves += [*recording.forward, *recording.backward]
        model.zero_grad()
    return solves


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
    task: Task,
    config: RunConfig,
    model: torch.nn.Module,
    history: list[EpochRecord],
    last_epoch: list[SolveStats],
    test: list[SolveStats],
) -> dict[str, Any]:
    backward = [solve for solve in last_epoch if solve.direction == "backward"]
    test_backward = [solve for solve in test if solve.direction == "backward"]
    return {
        "experiment": config.experiment,
        "preset": config.preset,
        "variant": config.variant,
        "arm": config.arm,
        "norm": backward[0].norm,
        "adjoint": backward[0].adjoint,
        "seed": config.seed,
        "backend": config.backend,
        "bridge": backward[0].bridge,
        "settings": config.settings,
        "rtol": config.settings["rtol"],
        "atol": config.settings["atol"],
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        # A flow of several blocks has several solves, each with its own parameters.
        "state_size": mean(solve.state_size for solve in backward),
        "parameter_size": mean(solve.parameter_size for solve in backward),
        "size_ratio": mean(
            1 + solve.parameter_size / (1 + 2 * solve.state_size) for solve in backward
        ),
        "epochs": len(history),
        "metric_name": task.metric_name,
        "metric": history[-1].metric,
        "loss": history[-1].loss,
        "forward_nfe": sum(epoch.forward_nfe for epoch in history),
        "backward_nfe": sum(epoch.backward_nfe for epoch in history),
        "accepted": sum(epoch.accepted for epoch in history),
        "rejected": sum(epoch.rejected for epoch in history),
        "test_backward_nfe": sum(solve.nfe for solve in test_backward),
        "test_accepted": sum(solve.accepted or 0 for solve in test_backward),
        "test_rejected": sum(solve.rejected or 0 for solve in test_backward),
        "seconds": sum(epoch.seconds for epoch in history),
    }
