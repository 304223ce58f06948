"""The paper's own numbers, to stand beside ours.

Kidger, Chen & Lyons, "Hey, that's not an ODE": Faster ODE Adjoints via
Seminorms, ICML 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ACROBOT",
    "CNF_CIFAR10",
    "CNF_MNIST",
    "SPEECH_COMMANDS",
    "TABLE_1",
    "TABLE_4",
    "Measured",
    "PaperComparison",
    "PaperRow",
    "StepRow",
]


@dataclass(frozen=True)
class Measured:
    """Mean and standard deviation over the paper's repeats."""

    mean: float
    std: float


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper: a model's size, and of each norm metric and backward NFE."""

    parameters: int
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
        What the rows were measured on.
    keys : tuple of str
        The settings that tell the rows apart.
    rows : mapping
        By the values of these settings.
    """

    table: str
    about: str
    keys: tuple[str, ...]
    rows: Mapping[tuple[Any, ...], PaperRow]

    def row(self, settings: Mapping[str, Any]) -> PaperRow | None:
        """The row of a run with these settings, if the paper has one."""
        return self.rows.get(tuple(settings.get(key) for key in self.keys))


@dataclass(frozen=True)
class StepRow:
    """One row of Table 4: steps (in thousands) of one backward pass over the test set."""

    rejected: Mapping[str, Measured]
    accepted: Mapping[str, Measured]


_Four = tuple[float, float, float, float]


def _row(
    parameters: int, default: _Four, seminorm: _Four, metric_unit: float, nfe_unit: float
) -> PaperRow:
    """From metric and backward NFE in the table's units, each as mean and deviation."""
    columns = {"default": default, "seminorm": seminorm}
    return PaperRow(
        parameters,
        metric={
            norm: Measured(c[0] * metric_unit, c[1] * metric_unit) for norm, c in columns.items()
        },
        backward_nfe={
            norm: Measured(c[2] * nfe_unit, c[3] * nfe_unit) for norm, c in columns.items()
        },
    )


def _steps(rejected: _Four, accepted: _Four) -> StepRow:
    """From the default norm's mean and deviation and the seminorm's, of each kind of step."""
    by_norm = (
        {"default": Measured(*steps[:2]), "seminorm": Measured(*steps[2:])}
        for steps in (rejected, accepted)
    )
    return StepRow(*by_norm)


TABLE_1: Mapping[tuple[Any, ...], PaperRow] = {
    (1e-3, 1e-6): _row(88_940, (92.6, 0.4, 14.36, 1.09), (92.5, 0.5, 8.67, 1.60), 0.01, 1e6),
    (1e-4, 1e-7): _row(88_940, (92.8, 0.4, 30.67, 2.48), (92.5, 0.5, 12.75, 2.00), 0.01, 1e6),
    (1e-5, 1e-8): _row(88_940, (92.4, 0.7, 77.95, 4.47), (92.9, 0.4, 29.39, 0.80), 0.01, 1e6),
}
"""Neural CDEs on Speech Commands; test accuracy and backward NFE over all of training."""

SPEECH_COMMANDS = PaperComparison(
    "Table 1", "Speech Commands (5 repeats)", ("rtol", "atol"), TABLE_1
)
"""What our neural CDEs, also those on smaller speech data, stand beside."""

CNF_CIFAR10 = PaperComparison(
    "Table 2",
    "CIFAR-10 (3 repeats, 100 epochs)",
    ("hidden",),
    {(64,): _row(1_200_600, (3.3492, 0.0059, 41.65, 1.97), (3.3428, 0.0121, 38.93, 1.32), 1, 1e6)},
)
CNF_MNIST = PaperComparison(
    "Table 2",
    "MNIST (3 repeats, 100 epochs)",
    ("hidden",),
    {
        (32,): _row(281_928, (0.9968, 0.0020, 41.50, 2.35), (0.9942, 0.0013, 37.03, 0.96), 1, 1e6),
        (64,): _row(
            1_005_384, (0.9623, 0.0020, 44.24, 1.78), (0.9603, 0.0021, 37.85, 0.94), 1, 1e6
        ),
        (128,): _row(
            3_779_400, (0.9439, 0.0030, 48.60, 2.30), (0.9466, 0.0048, 41.84, 1.92), 1, 1e6
        ),
    },
)
ACROBOT = PaperComparison(
    "Table 3",
    "the fully actuated double pendulum (5 repeats)",
    (),
    {(): _row(509_108, (1.247, 0.520, 46.45, 0.01), (2.995, 2.190, 26.55, 0.01), 1e-4, 1e4)},
)

TABLE_4: Mapping[str, StepRow] = {
    "NCDE (small)": _steps((0.13, 0.02, 0.15, 0.02), (3.45, 0.26, 1.92, 0.18)),
    "NCDE (medium)": _steps((1.01, 0.18, 0.17, 0.05), (8.38, 0.86, 3.25, 0.43)),
    "NCDE (large)": _steps((10.91, 1.03, 1.16, 0.13), (28.86, 2.15, 8.61, 0.45)),
    "CIFAR-10": _steps((11.04, 0.29, 9.30, 1.92), (23.50, 1.19, 22.82, 1.34)),
    "MNIST (d_h = 32)": _steps((5.54, 0.99, 4.51, 1.01), (20.91, 0.90, 19.93, 0.42)),
    "MNIST (d_h = 64)": _steps((7.79, 0.81, 4.29, 0.69), (22.95, 1.02, 19.73, 0.99)),
    "MNIST (d_h = 128)": _steps((8.88, 0.21, 7.40, 1.17), (26.54, 0.91, 25.01, 1.17)),
    "HNN": _steps((0.11, 0.00, 0.00, 0.00), (0.18, 0.00, 0.16, 0.00)),
}
"""By the paper's names: "small", "medium" and "large" are Table 1's three tolerances."""
