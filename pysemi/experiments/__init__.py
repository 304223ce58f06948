"""The paper's experiments as named, resumable runs that end in a table and a report.

``pysemi reproduce`` is the command; :func:`reproduce` the same from Python.
Models live in ``pysemi.models``, solving in ``pysemi.api``. Needs the extra
``experiments``.
"""

from pysemi.experiments.experiment import (
    Experiment,
    all_experiments,
    get_experiment,
    register,
)
from pysemi.experiments.reproduce import Outcome, Plan, reproduce

__all__ = [
    "Experiment",
    "Outcome",
    "Plan",
    "all_experiments",
    "get_experiment",
    "register",
    "reproduce",
]
