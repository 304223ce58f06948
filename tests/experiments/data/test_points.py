"""The points and the digits are the same each time, and have the shapes they are named for."""

from __future__ import annotations

import pytest
import torch

from pysemi.errors import ArgumentError
from pysemi.experiments.data.digits import load_digits
from pysemi.experiments.data.points import DISTRIBUTIONS, sample_points


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_points_are_drawn_again_and_lie_near_the_origin(name):
    first, again = sample_points(name, 1000, 500), sample_points(name, 1000, 500)
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.test, again.test)
    assert first.train.shape == (1000, 2)
    assert first.test.shape == (500, 2)
    assert not torch.equal(first.train[:500], first.test)
    assert first.train.abs().max() < 5.5
    assert first.train.mean(dim=0).norm() < 0.3


def test_a_checkerboards_light_squares_are_empty():
    points = sample_points("checkerboard", 5000, 1).train
    column, row = ((points + 4) / 2).floor().long().unbind(dim=1)
    assert ((column + row) % 2 == 0).all()
    assert len(torch.unique(column * 4 + row)) == 8


def test_the_gaussians_are_eight():
    points = sample_points("gaussians", 5000, 1).train
    angle = torch.atan2(points[:, 1], points[:, 0]) / (torch.pi / 4)
    off = (angle - angle.round()).abs()
    assert len(torch.unique(angle.round().long() % 8)) == 8
    assert off.median() < 0.15  # 0.25 if the angle were uniform


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ArgumentError, match="distribution"):
        sample_points("circles", 1, 1)


def test_a_fifth_of_each_digit_is_for_testing():
    images = load_digits()
    assert images.train.shape == (1442, 1, 8, 8)
    assert images.test.shape == (355, 1, 8, 8)
    assert images.train.dtype == torch.uint8
    assert int(images.train.max()) == images.levels - 1
    assert torch.equal(images.test, load_digits().test)
