"""Named experiments and their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pysemi.errors import ArgumentError, describe
from pysemi.experiments.paper import PaperComparison
from pysemi.experiments.preset import Preset
from pysemi.experiments.task import Task

__all__ = ["Experiment", "all_experiments", "get_experiment", "register"]


@dataclass(frozen=True)
class Experiment:
    """A named experiment.

    Attributes
    ----------
    name : str
        As on the command line.
    title : str
        As in a report's heading.
    about : str
        What it trains on what, in a sentence or two.
    presets : mapping of str to Preset
    load : callable
        From a preset to a :class:`Task`; reads the data.
    paper : PaperComparison or None
        The paper's result to show beside ours.
    """

    name: str
    title: str
    about: str
    presets: Mapping[str, Any]
    load: Callable[[Any], Task]
    paper: PaperComparison | None = None

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
    from pysemi.experiments import japanese_vowels, spoken_digits  # noqa: F401

    return dict(sorted(_EXPERIMENTS.items()))
