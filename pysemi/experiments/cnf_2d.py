"""The experiment ``cnf-2d``: flows in the plane, where a density can be looked at.

Distributions, vector field, trace, tolerances and weight decay are those of
FFJORD's public code (``train_toy.py``: 10,000 steps of 100 points, three hidden
layers of 64 units, end time learnt from 0.5); there are fewer steps here, a
larger learning rate for them, half as many units, and t in [0, 1].
"""

from __future__ import annotations

from pysemi.experiments.data.points import DISTRIBUTIONS, sample_points
from pysemi.experiments.experiment import register
from pysemi.experiments.flow_arms import FLOW_ARMS
from pysemi.experiments.flow_pictures import point_pictures
from pysemi.experiments.point_flow import PointDensity, PointFlowPreset
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["CNF_2D", "load"]


def load(preset: PointFlowPreset) -> PointDensity:
    """Draw the points."""
    points = sample_points(preset.distribution, preset.train_points, preset.test_points)
    return PointDensity(points, preset)


QUICK = PointFlowPreset(
    about="four distributions, 30 epochs of 20 batches; some ten seconds a run on Julia",
    seeds=3,
    variants={name: {"distribution": name} for name in DISTRIBUTIONS},
    epochs=30,
    batch_size=100,
    learning_rate=5e-3,
    weight_decay=1e-5,
    rtol=1e-5,
    atol=1e-5,
    distribution="moons",
    train_points=2000,
    test_points=1000,
    hidden=32,
    depth=3,
)

CNF_2D = register(
    TrainingExperiment(
        name="cnf-2d",
        title="Continuous normalising flows in the plane",
        about="Learn the densities of two moons, a pinwheel, a checkerboard and eight Gaussians "
        "with the exact trace. A third arm leaves the log-density, which is only an integral as "
        "well, out of the norm of both solves.",
        presets={"quick": QUICK},
        arms=("default", "seminorm", "no-log-density"),
        arms_by_name=FLOW_ARMS,
        load=load,
        pictures=point_pictures,
    )
)
