"""The experiment ``quadrature``: whether a_θ belongs into the ODE at all.

Section 5 of the paper ("Further work") imagines ODE solvers for z and a_z
combined with quadrature rules for a_θ. Ways to one and the same gradient are
measured here side by side: their evaluations, their vector-Jacobian products,
their time, and their error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pysemi.errors import ArgumentError, SolveError, describe
from pysemi.experiments.acrobot import Acrobot, AcrobotPreset
from pysemi.experiments.arms import Arm
from pysemi.experiments.data.japanese_vowels import load_japanese_vowels
from pysemi.experiments.experiment import Experiment, Run, register
from pysemi.experiments.preset import Preset
from pysemi.experiments.progress import Progress
from pysemi.experiments.quadrature_report import quadrature_section
from pysemi.experiments.run_directory import RunConfig, RunDirectory
from pysemi.experiments.section import Section
from pysemi.experiments.series_classification import CDEPreset, SeriesClassification
from pysemi.experiments.spiral import Spiral, SpiralPreset
from pysemi.experiments.task import Batch, Task
from pysemi.stats import Recording, record

__all__ = ["QUADRATURE", "WAYS", "Measurement", "QuadratureExperiment", "QuadraturePreset"]

WAYS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("backsolve-default", {"adjoint_options": {"norm": "default"}}),
        Arm("backsolve-seminorm", {"adjoint_options": {"norm": "seminorm"}}),
        Arm("gauss", {"adjoint": "gauss"}),
        Arm("quadrature", {"adjoint": "quadrature"}),
        Arm("discrete", {"adjoint": "discrete"}),
    )
}
"""What is measured; torch has the first two."""

ONLY_ARM = "every-adjoint"
"""One run measures every way on one model, so that their times are of the same minute."""

REFERENCE_TOLERANCE = 1e-12
REFERENCE_METHOD = "dopri8"
"""Of higher order than what is measured: 1e-12 is then a few dozen steps."""

REPETITIONS = 3
"""Of each measurement; the least time counts."""


@dataclass(frozen=True, kw_only=True)
class QuadraturePreset(Preset):
    """What is measured: a problem's model after some training, at several tolerances.

    Attributes
    ----------
    problem : {"acrobot", "japanese-vowels", "spiral"}
    tolerances : str
        Values of rtol of both directions, with blanks between. (``rtol`` and
        ``atol`` themselves are those of the training before.)
    atol_share : float
        atol as a share of rtol, 1e-3 as in the paper's Table 1. With an atol of the
        size of a_θ the default norm does not see a_θ either, and all is the same.
    """

    problem: str
    tolerances: str
    atol_share: float = 1e-3

    def values(self) -> list[float]:
        """The tolerances as numbers.

        Raises
        ------
        ArgumentError
            If they are no positive numbers.
        """
        try:
            values = [float(word) for word in self.tolerances.split()]
        except ValueError as error:
            raise ArgumentError("--set", f"tolerances={self.tolerances}: {error}") from error
        if not values or not all(0 < value < 1 for value in values):
            raise ArgumentError(
                "--set", f"tolerances={self.tolerances}; give numbers between 0 and 1"
            )
        return values


@dataclass(frozen=True)
class Measurement:
    """One way at one tolerance.

    Attributes
    ----------
    way : str
    tolerance : float
    error : float or None
        ‖g − g*‖ / ‖g*‖ of the gradient of all parameters; None if a solve failed.
    forward_nfe, backward_nfe, nvjp : int
        Evaluations in each direction, and products on the way back.
    accepted, rejected : int
        Steps of the backward solve.
    seconds : float
        Least wall time of both directions, once everything is compiled.
    failure : str
        What was wrong, if anything was.
    """

    way: str
    tolerance: float
    error: float | None = None
    forward_nfe: int = 0
    backward_nfe: int = 0
    nvjp: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class QuadratureExperiment(Experiment):
    """Measure every way to the gradient of a problem's loss in its parameters."""

    arms: Sequence[str] = (ONLY_ARM,)

    @property
    def known_arms(self) -> Sequence[str]:
        """One: they are compared within a run."""
        return (ONLY_ARM,)

    def check(self, preset: Preset) -> Mapping[str, str]:
        """Load the problem's data and build its model."""
        assert isinstance(preset, QuadraturePreset)
        preset.values()
        _problem(preset).model({})
        return {
            "reference": f"torch's float64 weights, {REFERENCE_METHOD} at {REFERENCE_TOLERANCE:g}, "
            "backsolve with the default norm",
        }

    def execute(
        self, config: RunConfig, preset: Preset, directory: RunDirectory, progress: Progress
    ) -> dict[str, Any]:
        """Train a little, find the reference gradient, and hold every way against it."""
        assert isinstance(preset, QuadraturePreset)
        ways = list(WAYS.values())[: 2 if config.backend == "torch" else None]
        tolerances = preset.values()
        task = _problem(preset)
        progress.run_started(config, "gradient error", 1 + len(ways) * len(tolerances), 0)
        weights, batch = _trained(task, preset, config)
        bench = _Bench(task, weights, batch, config.backend, preset.atol_share)
        reference = bench.gradient(
            {
                "method": REFERENCE_METHOD,
                "rtol": REFERENCE_TOLERANCE,
                "atol": REFERENCE_TOLERANCE,
            }
        )
        progress.batch_ended(config, 0.0, 0)
        measurements = []
        for tolerance in tolerances:
            for way in ways:
                measurements.append(bench.measure(way, tolerance, reference))
                progress.batch_ended(
                    config, measurements[-1].error or 0.0, measurements[-1].backward_nfe
                )
        result = {
            "experiment": config.experiment,
            "preset": config.preset,
            "variant": config.variant,
            "arm": config.arm,
            "seed": config.seed,
            "backend": config.backend,
            "settings": config.settings,
            "parameters": sum(weight.numel() for weight in weights.values()),
            "epochs": preset.epochs,
            "measurements": [asdict(one) for one in measurements],
            "seconds": sum(one.seconds for one in measurements),
        }
        directory.finish(result, [])
        progress.run_ended(config, result)
        return result

    def section(self, runs: Sequence[Run]) -> Section:
        """A table for each tolerance, and error over evaluations and time."""
        return quadrature_section(self.title, self.about, [run.row for run in runs], list(WAYS))


class _Bench:
    """One model with its weights, one batch, in float64."""

    def __init__(
        self,
        task: Task,
        weights: Mapping[str, Tensor],
        batch: Batch,
        backend: str,
        atol_share: float,
    ) -> None:
        self._task = task
        self._weights = weights
        self._batch = tuple(x.double() if x.is_floating_point() else x for x in batch)
        self._backend = backend
        self._atol_share = atol_share

    def gradient(self, solver: Mapping[str, Any]) -> Tensor:
        """The loss's gradient in all parameters, one after the other."""
        return self._once(self._model(solver))[0]

    def measure(self, way: Arm, tolerance: float, reference: Tensor) -> Measurement:
        """Hold one way's gradient against the reference."""
        atol = self._atol_share * tolerance
        model = self._model({"rtol": tolerance, "atol": atol, **way.solver})
        try:
            self._once(model)  # compiles
            runs = [self._once(model) for _ in range(REPETITIONS)]
        except SolveError as error:
            return Measurement(way.name, tolerance, failure=str(error))
        gradient, solves, _ = runs[-1]
        backward = solves.backward
        return Measurement(
            way.name,
            tolerance,
            error=float((gradient - reference).norm() / reference.norm()),
            forward_nfe=sum(solve.nfe for solve in solves.forward),
            backward_nfe=sum(solve.nfe for solve in backward),
            nvjp=sum(solve.nvjp for solve in backward),
            accepted=sum(solve.accepted or 0 for solve in backward),
            rejected=sum(solve.rejected or 0 for solve in backward),
            seconds=min(seconds for _, _, seconds in runs),
        )

    def _model(self, solver: Mapping[str, Any]) -> nn.Module:
        model = self._task.model({"backend": self._backend, **solver}).double()
        model.load_state_dict(dict(self._weights))
        return model

    def _once(self, model: nn.Module) -> tuple[Tensor, Recording, float]:
        model.zero_grad()
        with record() as recording:
            started = time.perf_counter()
            self._task.loss(model, self._batch).backward()
            seconds = time.perf_counter() - started
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return gradient, recording, seconds


def _trained(
    task: Task, preset: QuadraturePreset, config: RunConfig
) -> tuple[dict[str, Tensor], Batch]:
    """Weights after some epochs in float32, and a batch to measure on."""
    torch.manual_seed(config.seed)
    model = task.model(
        {
            "rtol": preset.rtol,
            "atol": preset.atol,
            "adjoint_options": {"norm": "seminorm"},
            "backend": config.backend,
        }
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=preset.learning_rate, weight_decay=preset.weight_decay
    )
    order = torch.Generator().manual_seed(config.seed)
    for _ in range(preset.epochs):
        for batch in task.batches(order):
            task.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    weights = {name: value.double() for name, value in model.state_dict().items()}
    return weights, next(iter(task.batches(order)))


def _problem(preset: QuadraturePreset) -> Task:
    base: dict[str, Any] = {
        "about": preset.about,
        "epochs": preset.epochs,
        "batch_size": preset.batch_size,
        "learning_rate": preset.learning_rate,
        "rtol": preset.rtol,
        "atol": preset.atol,
        "train_limit": preset.train_limit,
        "test_limit": preset.test_limit,
    }
    if preset.problem == "acrobot":
        return Acrobot(AcrobotPreset(**base, trajectories=16))
    if preset.problem == "japanese-vowels":
        # SiLU, as with a ReLU's kinks no method reaches the reference's tolerance; cubic, as
        # with knots to step on the tolerance would decide nothing.
        base |= {"activation": "silu", "interpolation": "cubic"}
        preset_of_model = CDEPreset(**base, hidden_channels=64, width=128, depth=2)
        return SeriesClassification(load_japanese_vowels(), preset_of_model)
    if preset.problem == "spiral":
        return Spiral(SpiralPreset(**base))
    raise ArgumentError(
        "--set", f"problem={describe(preset.problem)}; there are acrobot, japanese-vowels, spiral"
    )


QUICK = QuadraturePreset(
    about="three problems at three tolerances; about four minutes a seed on Julia",
    seeds=3,
    variants={
        "spiral": {},
        "acrobot": {"problem": "acrobot", "batch_size": 32, "epochs": 2, "learning_rate": 1e-3},
        "japanese-vowels": {
            "problem": "japanese-vowels",
            "batch_size": 45,
            "epochs": 4,
            "learning_rate": 2e-3,
        },
    },
    epochs=10,
    batch_size=128,
    learning_rate=1e-2,
    rtol=1e-4,
    atol=1e-4,
    problem="spiral",
    tolerances="1e-3 1e-5 1e-7",
)

QUADRATURE = register(
    QuadratureExperiment(
        name="quadrature",
        title="Taking a_θ out of the ODE (section 5)",
        about="The same gradient by backward solves that carry a_θ (with both norms), by those "
        "that leave it to a quadrature rule, and by differentiating the solver's steps: "
        "evaluations, products, time, and error against a solution at 1e-12.",
        presets={
            "quick": QUICK,
            "full": replace(
                QUICK,
                about="the same at seven tolerances",
                tolerances="1e-3 1e-4 1e-5 1e-6 1e-7 1e-8 1e-9",
            ),
        },
    )
)
