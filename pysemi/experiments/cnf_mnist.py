"""The experiment ``cnf-mnist``: flows of handwritten digits; the paper's Table 2.

Where the settings of the preset ``paper`` are from:

- the paper: d_h, 100 epochs, Gaussian noise (equation 6), three repeats;
- FFJORD's public code (``train_cnf.py``), the defaults and the command of its
  README for MNIST: Dopri5 with RTOL = ATOL = 1e-5, Adam with learning rate 1e-3
  and no weight decay, batches of 200, dequantisation, alpha = 1e-6, softplus;
- an inference from the parameter counts: the architecture (see
  :mod:`pysemi.models.image_flow`).

FFJORD's learning rate grows over the first 1,000 steps, and its README has
Rademacher noise; neither is said in the paper, and neither is done here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pysemi.errors import ArgumentError, describe
from pysemi.experiments.data.mnist import load_mnist
from pysemi.experiments.experiment import register
from pysemi.experiments.flow_arms import FLOW_ARMS
from pysemi.experiments.flow_pictures import image_pictures
from pysemi.experiments.image_flow import ImageDensity, ImageFlowPreset
from pysemi.experiments.paper import CNF_MNIST as PAPER_CNF_MNIST
from pysemi.experiments.training_experiment import TrainingExperiment

__all__ = ["CNF_MNIST", "MNISTPreset", "load"]

IMAGES = ("all", "test")


@dataclass(frozen=True, kw_only=True)
class MNISTPreset(ImageFlowPreset):
    """Settings of flows of MNIST.

    Attributes
    ----------
    images : {"all", "test"}
        The official split, or the official test images alone, split here.
    """

    images: str = "all"


def load(preset: MNISTPreset) -> ImageDensity:
    """Download the images, 10 MB or 1.6 MB, unless they are there."""
    if preset.images not in IMAGES:
        raise ArgumentError(
            "--set", f"images={describe(preset.images)} is not one of {', '.join(IMAGES)}"
        )
    return ImageDensity(load_mnist(test_images_only=preset.images == "test"), preset)


QUICK = MNISTPreset(
    about="two flows in place of 12, from 14 x 14 pixels on, RTOL = ATOL = 1e-3, 600 of the "
    "official test images to train on, 4 epochs; one to three minutes a run",
    variants={f"d_h = {hidden}": {"hidden": hidden} for hidden in (8, 16)},
    epochs=4,
    batch_size=20,
    learning_rate=1e-2,
    weight_decay=0.0,
    rtol=1e-3,
    atol=1e-3,
    train_limit=600,
    test_limit=200,
    hidden=8,
    flows=1,
    resolutions=2,
    squeezes_first=1,
    images="test",
)

PAPER = MNISTPreset(
    about="the paper's setting, in three sizes; weeks on two cores",
    seeds=3,
    variants={f"d_h = {hidden}": {"hidden": hidden} for hidden in (32, 64, 128)},
    epochs=100,
    batch_size=200,
    learning_rate=1e-3,
    weight_decay=0.0,
    rtol=1e-5,
    atol=1e-5,
    hidden=32,
)

CNF_MNIST = register(
    TrainingExperiment(
        name="cnf-mnist",
        title="Continuous normalising flows on MNIST",
        about="Learn the density of handwritten digits (28 x 28 pixels) by a chain of flows, with "
        "Hutchinson's estimate of the trace.",
        presets={"quick": QUICK, "paper": PAPER},
        arms_by_name=FLOW_ARMS,
        load=load,
        paper=PAPER_CNF_MNIST,
        pictures=image_pictures,
    )
)
