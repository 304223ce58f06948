"""Named experiments and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pysemi.errors import ArgumentError, describe
from pysemi.experiments.preset import Preset

if TYPE_CHECKING:
    from pysemi.experiments.progress import Progress
    from pysemi.experiments.run_directory import RunConfig, RunDirectory
    from pysemi.experiments.section import Section

__all__ = ["Experiment", "Run", "all_experiments", "get_experiment", "register"]


class Run(NamedTuple):
    """A finished run: its row, and the folder that holds the rest."""

    row: Mapping[str, Any]
    directory: RunDirectory


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """A named experiment: what a run of it does, and what is shown of its runs.

    A run has one preset or variant of it, one arm of the comparison, and one
    seed. Runs know nothing of one another, so they can be made side by side.

    Attributes
    ----------
    name : str
        As on the command line.
    title : str
        As in a report's heading.
    about : str
        What it trains on what, in a sentence or two.
    presets : mapping of str to Preset
    arms : sequence of str
        What is compared unless the user asks for something else.
    """

    name: str
    title: str
    about: str
    presets: Mapping[str, Any]
    arms: Sequence[str] = ("default", "seminorm")

    @property
    @abstractmethod
    def known_arms(self) -> Sequence[str]:
        """Every arm a user may ask for."""

    @abstractmethod
    def check(self, preset: Preset) -> Mapping[str, str]:
        """Get the data and refuse settings that make no model, before anything is written.

        Returns
        -------
        mapping of str to str
            What a reader should know of the data, such as how it was split.

        Raises
        ------
        DataError
            If the data cannot be had.
        ArgumentError
            If a setting makes no sense.
        """

    @abstractmethod
    def execute(
        self, config: RunConfig, preset: Preset, directory: RunDirectory, progress: Progress
    ) -> dict[str, Any]:
        """Make one run, or what is left of it, in its folder, and return its row.

        Parameters
        ----------
        config : RunConfig
        preset : Preset
            The variant's.
        directory : RunDirectory
            Started, perhaps with some epochs done.
        progress : Progress
        """

    @abstractmethod
    def section(self, runs: Sequence[Run]) -> Section:
        """What a report shows of runs of this experiment, all of one preset."""

    def preset(self, name: str) -> Preset:
        """Return the preset called ``name``.

        Raises
        ------
        ArgumentError
            If there is none.
        """
        try:
            chosen: Preset = self.presets[name]
        except KeyError:
            raise ArgumentError(
                "--preset",
                f"{describe(name)} is no preset of {self.name}; there are "
                f"{', '.join(self.presets)}",
            ) from None
        return chosen


_EXPERIMENTS: dict[str, Experiment] = {}


def register(experiment: Experiment) -> Experiment:
    """Make an experiment known by its name, which must be new."""
    if experiment.name in _EXPERIMENTS:
        raise ArgumentError("experiment", f"{describe(experiment.name)} is registered already")
    _EXPERIMENTS[experiment.name] = experiment
    return experiment


def get_experiment(name: str) -> Experiment:
    """Return the experiment called ``name``.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    try:
        return all_experiments()[name]
    except KeyError:
        raise ArgumentError(
            "NAME",
            f"{describe(name)} is no experiment; there are {', '.join(all_experiments())} (see "
            "`pysemi reproduce --list`)",
        ) from None


def all_experiments() -> Mapping[str, Experiment]:
    """Every experiment that pysemi ships, by name."""
    # Importing the modules registers what they define; here, since they need this one.
    from pysemi.experiments import (  # noqa: F401
        acrobot,
        cnf_2d,
        cnf_cifar10,
        cnf_digits,
        cnf_mnist,
        japanese_vowels,
        quadrature,
        speech_commands,
        spoken_digits,
    )

    return dict(sorted(_EXPERIMENTS.items()))
