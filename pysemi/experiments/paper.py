"""The paper's own numbers, to stand beside ours.

Kidger, Chen & Lyons, "Hey, that's not an ODE": Faster ODE Adjoints via
Seminorms, ICML 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SPEECH_COMMANDS", "TABLE_1", "Measured", "PaperComparison", "PaperRow"]


@dataclass(frozen=True)
class Measured:
    """Mean and standard deviation over the paper's repeats."""

    mean: float
    std: float


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper: the metric and the backward NFE of each norm."""

    metric: Mapping[str, Measured]
    backward_nfe: Mapping[str, Measured]


@dataclass(frozen=True)
class PaperComparison:
    """Which of the paper's rows an experiment stands beside.

    Attributes
    ----------
    table : str
        As the paper numbers it.
    about : str
        What the row was measured on.
    rows : mapping
        By (rtol, atol).
    """

    table: str
    about: str
    rows: Mapping[tuple[float, float], PaperRow]


def _row(
    default: tuple[float, float, float, float], seminorm: tuple[float, float, float, float]
) -> PaperRow:
    """From accuracy (%) and backward NFE (millions), each as mean and deviation."""
    columns = {"default": default, "seminorm": seminorm}
    return PaperRow(
        metric={norm: Measured(c[0] / 100, c[1] / 100) for norm, c in columns.items()},
        backward_nfe={norm: Measured(c[2] * 1e6, c[3] * 1e6) for norm, c in columns.items()},
    )


TABLE_1: Mapping[tuple[float, float], PaperRow] = {
    (1e-3, 1e-6): _row((92.6, 0.4, 14.36, 1.09), (92.5, 0.5, 8.67, 1.60)),
    (1e-4, 1e-7): _row((92.8, 0.4, 30.67, 2.48), (92.5, 0.5, 12.75, 2.00)),
    (1e-5, 1e-8): _row((92.4, 0.7, 77.95, 4.47), (92.9, 0.4, 29.39, 0.80)),
}
"""Table 1: neural CDEs on Speech Commands; test accuracy and backward NFE over all of training."""

SPEECH_COMMANDS = PaperComparison("Table 1", "Speech Commands (5 repeats)", TABLE_1)
"""What our neural CDEs on smaller speech data stand beside."""
