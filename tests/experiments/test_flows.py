"""The experiments with continuous normalising flows, on a few images and points."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from pysemi.errors import ArgumentError
from pysemi.experiments import Plan, cnf_cifar10, cnf_mnist, reproduce
from pysemi.experiments.cnf_2d import CNF_2D
from pysemi.experiments.cnf_cifar10 import CNF_CIFAR10
from pysemi.experiments.cnf_digits import CNF_DIGITS
from pysemi.experiments.cnf_mnist import CNF_MNIST
from pysemi.experiments.data.cifar10 import load_cifar10
from pysemi.experiments.data.image_set import ImageSet
from pysemi.experiments.data.points import sample_points
from pysemi.experiments.experiment import Run
from pysemi.experiments.flow_arms import FLOW_ARMS
from pysemi.experiments.flow_pictures import (
    image_figure,
    image_pictures,
    point_figure,
    point_pictures,
)
from pysemi.experiments.image_flow import ImageDensity
from pysemi.experiments.metric import METRICS
from pysemi.experiments.point_flow import PointDensity
from pysemi.norms import StateNorm
from tests.experiments.data.archives import data_file, tar_of
from tests.experiments.quiet import Quiet

SOLVER = {"rtol": 1e-2, "atol": 1e-2}
TINY = replace(
    CNF_CIFAR10.presets["steps"], hidden=2, batch_size=4, train_limit=10, test_limit=6, mirror=0.5
)
PLANE = replace(
    CNF_2D.presets["quick"], hidden=4, depth=1, batch_size=30, train_points=70, test_points=50
)


def image_task(preset=TINY, channels: int = 3) -> ImageDensity:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, channels, 8, 8), generator=generator).to(torch.uint8)
    return ImageDensity(ImageSet(images[:12], images[12:], 256, "by hand"), preset)


def point_task() -> PointDensity:
    return PointDensity(sample_points("moons", 70, 50), PLANE)


@pytest.mark.parametrize("task", [image_task, point_task])
def test_a_flow_learns(task):
    torch.manual_seed(0)
    task = task()
    model = task.model(SOLVER)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.no_grad():
        before = task.evaluate(model)
    for epoch in range(3):
        batches = list(task.batches(torch.Generator().manual_seed(epoch)))
        assert len(batches) == task.batches_per_epoch
        for batch in batches:
            task.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        assert task.evaluate(model) < before
    assert task.metric_name in METRICS


def test_evaluation_has_the_same_noise_each_time_and_leaves_that_of_the_training():
    task = image_task()
    model = task.model(SOLVER)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with torch.no_grad():
        first = task.evaluate(model)
    assert torch.equal(torch.rand(3), expected)
    with torch.no_grad():
        assert task.evaluate(model) == first
    assert task.loss(model, (torch.zeros(2, 3, 8, 8),)) != task.loss(
        model, (torch.zeros(2, 3, 8, 8),)
    )


def test_images_are_mirrored_half_of_the_time():
    task = image_task(replace(TINY, batch_size=10))
    (batch,), *_ = task.batches(torch.Generator().manual_seed(0))
    (plain,), *_ = image_task(replace(TINY, batch_size=10, mirror=0.0)).batches(
        torch.Generator().manual_seed(0)
    )
    same = (batch == plain).all(dim=(1, 2, 3))
    assert 0 < int(same.sum()) < 10
    assert torch.equal(batch[~same], plain[~same].flip(-1))


@pytest.mark.parametrize("name", ["default", "seminorm", "rms", "no-log-density"])
def test_flows_can_be_trained_in_each_arm(name):
    arm = FLOW_ARMS[name]
    for task in (image_task(), point_task()):
        model = task.model({**SOLVER, **arm.solver})
        task.loss(model, next(task.test_batches())).backward()
        assert all(p.grad is not None for p in model.parameters())


def test_the_third_arm_looks_at_no_log_density():
    norm = FLOW_ARMS["no-log-density"].solver["options"]["norm"]
    assert isinstance(norm, StateNorm)
    assert [bool(weight) for weight in norm.weights] == [True, False]
    assert "no-log-density" in CNF_2D.arms


@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_samples_become_a_picture(channels, tmp_path):
    task = image_task(channels=channels)
    exhibits = task.exhibits(task.model(SOLVER))
    assert exhibits["samples"].dtype == exhibits["images"].dtype == np.uint8
    assert exhibits["samples"].shape[1:] == exhibits["images"].shape[1:] == (channels, 8, 8)
    assert image_figure(exhibits).startswith(b"\x89PNG")


def test_density_samples_and_flow_become_a_picture():
    task = point_task()
    exhibits = task.exhibits(task.model(SOLVER))
    assert np.allclose(exhibits["path"][-1], exhibits["samples"][:300], atol=0.05)
    assert exhibits["times"][[0, -1]].tolist() == [0, 1]
    assert point_figure(exhibits).startswith(b"\x89PNG")


class Kept:
    """Stands in for a run's folder."""

    def __init__(self, exhibits) -> None:
        self._exhibits = exhibits

    def exhibits(self):
        return self._exhibits


@pytest.mark.parametrize(
    ("task", "pictures"), [(image_task, image_pictures), (point_task, point_pictures)]
)
def test_one_run_of_each_variant_is_shown(task, pictures):
    task = task()
    kept = Kept(task.exhibits(task.model(SOLVER)))
    runs = [
        Run({"variant": variant, "arm": arm, "seed": seed, "metric": 1.0}, kept)
        for variant in ("d_h = 8", "d_h = 16")
        for arm in ("default", "seminorm")
        for seed in (0, 1)
    ]
    first, second = pictures(runs)
    assert first.name != second.name
    assert "d_h = 8" in first.title
    assert "seminorm, seed 0" in first.caption


def test_the_papers_rows_stand_beside_models_of_their_size(monkeypatch):
    def blank(channels: int, size: int):
        image = torch.zeros(1, channels, size, size, dtype=torch.uint8)
        return lambda **_: ImageSet(image, image, 256, "by hand")

    monkeypatch.setattr(cnf_mnist, "load_mnist", blank(1, 28))
    monkeypatch.setattr(cnf_cifar10, "load_cifar10", blank(3, 32))
    for experiment, rows in ((CNF_MNIST, 3), (CNF_CIFAR10, 1)):
        paper = experiment.presets["paper"]
        presets = [paper.variant(name) for name in paper.variants or [""]]
        assert len(presets) == rows
        for preset in presets:
            model = experiment.load(preset).model({})
            size = sum(p.numel() for p in model.parameters())
            assert size == experiment.paper.row(preset.settings()).parameters


def test_every_preset_without_a_download_makes_a_model():
    for experiment in (CNF_2D, CNF_DIGITS):
        for preset in experiment.presets.values():
            for variant in preset.variants or [""]:
                assert list(experiment.load(preset.variant(variant)).model({}).parameters())


def test_an_unknown_choice_of_images_is_refused():
    with pytest.raises(ArgumentError, match="images"):
        CNF_MNIST.load(replace(CNF_MNIST.presets["quick"], images="some"))


@pytest.mark.slow
def test_the_archive_of_photographs_becomes_a_report(tmp_path, monkeypatch):
    """The loader, two steps of training and the report, on an archive in the official format."""
    random = np.random.default_rng(0)

    def batch(count: int) -> bytes:
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        return np.insert(pixels, 0, np.arange(count) % 10, axis=1).tobytes()

    folder = "cifar-10-batches-bin"
    files = [(f"{folder}/data_batch_{number}.bin", batch(8)) for number in range(1, 6)]
    packed = tar_of([*files, (f"{folder}/test_batch.bin", batch(20)), (f"{folder}/readme", b"x")])
    (tmp_path / "mini.tar.gz").write_bytes(packed)
    monkeypatch.setenv("PYSEMI_DATA_DIR", str(tmp_path))
    miniature = partial(load_cifar10, archive=data_file("mini.tar.gz", packed))
    monkeypatch.setattr(cnf_cifar10, "load_cifar10", miniature)
    outcome = reproduce(
        Plan(
            experiment=CNF_CIFAR10,
            preset_name="steps",
            preset=CNF_CIFAR10.presets["steps"],
            backend="torch",
            arms=("seminorm",),
            seeds=1,
            out=tmp_path / "out",
            resume=False,
        ),
        Quiet(),
    )
    (row,) = outcome.results.rows
    assert row["epochs"] == 1
    assert row["backward_nfe"] > 0
    assert math.isfinite(row["metric"])
    assert "40 training, 20 test" in outcome.report.read_text("utf-8")
