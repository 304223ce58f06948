"""One run's folder: configuration, environment, metrics, solves, checkpoint, result.

::

    config.json           what is run
    environment.json      on what
    metrics.jsonl         a line per finished epoch
    solves/epoch-0001.npz every solve of that epoch (see solve_log)
    solves/test.npz       every solve of one pass over the test set at the end
    checkpoint.pt         model, optimiser and random state after the last finished epoch
    exhibits.npz          arrays that the run's own pictures are drawn from
    result.json           written last: the run is complete

Every file is replaced as a whole, and the checkpoint after the solves it
covers, so a run killed at any moment continues from its last finished epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pysemi.atomic import replacing, write_json, write_text
from pysemi.errors import ResumeError
from pysemi.experiments.solve_log import read_solves, write_solves
from pysemi.stats import SolveStats

__all__ = ["Checkpoint", "EpochRecord", "RunConfig", "RunDirectory"]


@dataclass(frozen=True)
class RunConfig:
    """What makes a run this run; two runs with the same end with the same metrics.

    Attributes
    ----------
    experiment, preset : str
    variant : str
        Row of the experiment's table; "" if it has but one.
    settings : mapping
        Of the preset, the variant's values included.
    arm : str
        Side of the comparison.
    seed : int
    backend : {"torch", "julia"}
    threads : int
        Of one torch operation.
    """

    experiment: str
    preset: str
    variant: str
    settings: Mapping[str, Any]
    arm: str
    seed: int
    backend: str
    threads: int

    @property
    def label(self) -> str:
        """Short name, for people."""
        run = f"{self.arm}, seed {self.seed}"
        return f"{self.variant}: {run}" if self.variant else run

    @property
    def folder(self) -> PurePath:
        """Of the run, among the others of its plan."""
        run = f"{self.arm}-seed{self.seed}"
        return PurePath(re.sub(r"[^\w.=-]+", "-", self.variant), run)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training cost and reached.

    Attributes
    ----------
    epoch : int
        From 1.
    loss : float
        Mean over the epoch's batches.
    metric : float
        On the test set, after the epoch.
    forward_nfe, backward_nfe : int
        During training; the evaluation's solves are not counted.
    accepted, rejected : int
        Steps of the backward solves.
    seconds : float
        Wall time of training in this epoch.
    """

    epoch: int
    loss: float
    metric: float
    forward_nfe: int
    backward_nfe: int
    accepted: int
    rejected: int
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The state of training after its last finished epoch."""

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    random_state: torch.Tensor
    history: tuple[EpochRecord, ...]


class RunDirectory:
    """Reads and writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._config_path.exists()

    @property
    def result(self) -> dict[str, Any] | None:
        """The complete run's result, or None."""
        path = self.path / "result.json"
        return _read_json(path) if path.exists() else None

    def start(self, config: RunConfig, environment: Mapping[str, Any]) -> None:
        """Write down what is run on what; of a run that exists, check that it is the same.

        Raises
        ------
        ResumeError
            If the folder holds a run of another configuration.
        """
        wanted = json.loads(json.dumps(asdict(config)))  # as it will be read back
        if self.exists:
            differing = _differences(_read_json(self._config_path), wanted)
            if differing:
                raise ResumeError(
                    f"{self.path} holds a run with {'; '.join(differing)}; continue it with "
                    "its own settings, or choose another --out"
                )
        else:
            write_json(self._config_path, wanted)
        write_json(self.path / "environment.json", environment)

    def load_checkpoint(self) -> Checkpoint | None:
        """The last finished epoch's state, or None before the first.

        Raises
        ------
        ResumeError
            If the file is damaged.
        """
        if not self._checkpoint_path.exists():
            return None
        try:
            stored = torch.load(self._checkpoint_path, weights_only=True)
            history = tuple(EpochRecord(**record) for record in stored.pop("history"))
            return Checkpoint(**stored, history=history)
        except Exception as error:  # damaged bytes can fail in any way
            raise ResumeError(
                f"{self._checkpoint_path} is damaged ({type(error).__name__}); delete the "
                f"folder {self.path} to start that run again"
            ) from error

    def save_epoch(self, checkpoint: Checkpoint, solves: Sequence[SolveStats]) -> None:
        """Write down the epoch that just ended."""
        write_solves(self._solves_path(len(checkpoint.history)), solves)
        history = [asdict(record) for record in checkpoint.history]
        with replacing(self._checkpoint_path) as temporary:
            torch.save(
                {
                    "model": dict(checkpoint.model),
                    "optimizer": dict(checkpoint.optimizer),
                    "random_state": checkpoint.random_state,
                    "history": history,
                },
                temporary,
            )
        self._write_metrics(history)

    def finish(self, result: Mapping[str, Any], history: Sequence[EpochRecord]) -> None:
        """Declare the run complete."""
        # Once more, in case the run was killed between a checkpoint and its metrics.
        self._write_metrics([asdict(record) for record in history])
        write_json(self.path / "result.json", result)

    def save_test(self, solves: Sequence[SolveStats]) -> None:
        """Write down the solves of a pass over the test set."""
        write_solves(self._test_path, solves)

    def test_solves(self) -> list[SolveStats]:
        """The solves of a pass over the test set, forward and backward."""
        return read_solves(self._test_path)

    def save_exhibits(self, exhibits: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays that pictures are to be drawn from."""
        with replacing(self._exhibits_path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **exhibits)

    def exhibits(self) -> dict[str, NDArray[Any]]:
        """The arrays that were kept, by name; none if there are none."""
        if not self._exhibits_path.exists():
            return {}
        with np.load(self._exhibits_path) as stored:
            return {name: stored[name] for name in stored.files}

    def history(self) -> list[EpochRecord]:
        """The finished epochs."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [EpochRecord(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]

    def solves(self, epoch: int | None = None) -> list[SolveStats]:
        """Every solve of one finished epoch or of all, in order."""
        epochs = range(1, len(self.history()) + 1) if epoch is None else (epoch,)
        return [solve for epoch in epochs for solve in read_solves(self._solves_path(epoch))]

    @property
    def _config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def _checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def _test_path(self) -> Path:
        return self.path / "solves" / "test.npz"

    @property
    def _exhibits_path(self) -> Path:
        return self.path / "exhibits.npz"

    def _solves_path(self, epoch: int) -> Path:
        return self.path / "solves" / f"epoch-{epoch:04}.npz"

    def _write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        lines = [json.dumps(record) + "\n" for record in history]
        write_text(self.path / "metrics.jsonl", "".join(lines))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(f"{path} cannot be read ({error}); delete its folder") from error
    return value


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    flat_held = {**held, **held.get("settings", {})}
    flat_wanted = {**wanted, **wanted["settings"]}
    return [
        f"{name} = {flat_held.get(name)} (asked for: {flat_wanted.get(name)})"
        for name in dict.fromkeys([*flat_held, *flat_wanted])
        if name != "settings" and flat_held.get(name) != flat_wanted.get(name)
    ]
