"""The experiment ``cnf-digits``: flows of small digits, for a machine without a download."""

from __future__ import annotations

from dataclasses import replace

from pysemi.experiments.data.digits import load_digits
from pysemi.experiments.experiment import register
from pysemi.experiments.flow_arms import FLOW_ARMS
from pysemi.experiments.flow_pictures import image_pictures
from pysemi.experiments.image_flow import ImageDensity, ImageFlowPreset
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["CNF_DIGITS", "load"]


def load(preset: ImageFlowPreset) -> ImageDensity:
    """Read the images from scikit-learn."""
    return ImageDensity(load_digits(), preset)


QUICK = ImageFlowPreset(
    about="a flow at each of three resolutions, d_h = 16, RTOL = ATOL = 1e-3, 6 epochs; one "
    "or two minutes a run",
    seeds=3,
    epochs=6,
    batch_size=100,
    learning_rate=1e-2,
    weight_decay=0.0,
    rtol=1e-3,
    atol=1e-3,
    hidden=16,
    flows=1,
    alpha=0.01,
)

CNF_DIGITS = register(
    TrainingExperiment(
        name="cnf-digits",
        title="Continuous normalising flows on small digits",
        about="Learn the density of scikit-learn's handwritten digits (8 x 8 pixels of 17 grey "
        "levels) by flows of the form of the paper's for MNIST.",
        presets={
            "quick": QUICK,
            "full": replace(
                QUICK,
                about="the paper's 12 flows with d_h = 32 at its tolerances, 30 epochs; hours",
                epochs=30,
                learning_rate=3e-3,
                rtol=1e-5,
                atol=1e-5,
                hidden=32,
                flows=4,
            ),
        },
        arms_by_name=FLOW_ARMS,
        load=load,
        pictures=image_pictures,
    )
)
