"""The experiment ``cnf-cifar10``: flows of photographs; the paper's Table 2.

The settings of the preset ``paper`` are those of :mod:`pysemi.experiments.cnf_mnist`,
but for d_h = 64 (the paper), alpha = 0.05 and mirrored images. The last two are
FFJORD's: the default of its model with several resolutions (``lib/odenvp.py``),
and its loader's.
"""

from __future__ import annotations

from dataclasses import replace

from pysemi.experiments.data.cifar10 import load_cifar10
from pysemi.experiments.experiment import register
from pysemi.experiments.flow_arms import FLOW_ARMS
from pysemi.experiments.flow_pictures import image_pictures
from pysemi.experiments.image_flow import ImageDensity, ImageFlowPreset
from pysemi.experiments.paper import CNF_CIFAR10 as PAPER_CNF_CIFAR10
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["CNF_CIFAR10", "load"]


def load(preset: ImageFlowPreset) -> ImageDensity:
    """Download the images, 170 MB, unless they are there."""
    return ImageDensity(load_cifar10(), preset)


PAPER = ImageFlowPreset(
    about="the paper's setting; weeks on two cores",
    seeds=3,
    epochs=100,
    batch_size=200,
    learning_rate=1e-3,
    weight_decay=0.0,
    rtol=1e-5,
    atol=1e-5,
    hidden=64,
    alpha=0.05,
    mirror=0.5,
)

CNF_CIFAR10 = register(
    TrainingExperiment(
        name="cnf-cifar10",
        title="Continuous normalising flows on CIFAR-10",
        about="Learn the density of photographs (32 x 32 pixels in three colours) by a chain of "
        "flows, with Hutchinson's estimate of the trace.",
        presets={
            "steps": replace(
                PAPER,
                about="two steps to see that it runs: two flows in place of 12, from 16 x 16 "
                "pixels on, d_h = 8, RTOL = ATOL = 1e-3, 40 images",
                seeds=1,
                epochs=1,
                batch_size=20,
                rtol=1e-3,
                atol=1e-3,
                train_limit=40,
                test_limit=20,
                hidden=8,
                flows=1,
                resolutions=2,
                squeezes_first=1,
            ),
            "paper": PAPER,
        },
        arms_by_name=FLOW_ARMS,
        load=load,
        paper=PAPER_CNF_CIFAR10,
        pictures=image_pictures,
    )
)
