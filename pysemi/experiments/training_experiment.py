"""Experiments that train a model: the paper's own kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pysemi.experiments import plots, summary
from pysemi.experiments.arms import NORMS, Arm
from pysemi.experiments.experiment import Experiment, Run
from pysemi.experiments.paper import PaperComparison
from pysemi.experiments.preset import Preset
from pysemi.experiments.progress import Progress
from pysemi.experiments.run_directory import RunConfig, RunDirectory
from pysemi.experiments.section import Picture, Section
from pysemi.experiments.task import Task
from pysemi.experiments.training import train

__all__ = ["TrainingExperiment"]


@dataclass(frozen=True, kw_only=True)
class TrainingExperiment(Experiment):
    """Train a task's model in each arm, and show metric, evaluations and steps.

    Attributes
    ----------
    load : callable
        From a preset to a :class:`Task`; reads the data. A function of a module
        (no lambda), so that another process finds it.
    arms_by_name : mapping of str to Arm
        By default the norms.
    paper : PaperComparison or None
        The paper's result to show beside ours.
    notes : sequence of str
        To stand below the table of results.
    pictures : callable or None
        From the runs to pictures beyond those that every training has.
    """

    load: Callable[[Any], Task]
    arms_by_name: Mapping[str, Arm] = field(default_factory=lambda: NORMS)
    paper: PaperComparison | None = None
    notes: Sequence[str] = ()
    pictures: Callable[[Sequence[Run]], Sequence[Picture]] | None = None

    @property
    def known_arms(self) -> Sequence[str]:
        """The names of ``arms_by_name``."""
        return tuple(self.arms_by_name)

    def check(self, preset: Preset) -> Mapping[str, str]:
        """Load the data and build the model once."""
        task = self.load(preset)
        task.model({})
        return {"split": task.split}

    def execute(
        self, config: RunConfig, preset: Preset, directory: RunDirectory, progress: Progress
    ) -> dict[str, Any]:
        """Train from the last finished epoch to the end."""
        arm = self.arms_by_name[config.arm]
        return train(self.load(preset), config, arm, directory, progress)

    def section(self, runs: Sequence[Run]) -> Section:
        """The paper's table, the steps, Figures 1, 4 and 5, and the experiment's own pictures."""
        rows = [run.row for run in runs]
        pictures = [*plots.training_pictures(runs)]
        if self.pictures is not None:
            pictures += self.pictures(runs)
        results = summary.paper_table(rows, self.paper)
        return Section(
            self.title,
            self.about,
            [replace(results, notes=(*results.notes, *self.notes)), summary.step_table(rows)],
            pictures,
        )
