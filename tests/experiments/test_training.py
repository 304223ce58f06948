"""The order of the data depends on seed and epoch, and on nothing else."""

from __future__ import annotations

import dataclasses

import torch

from pysemi.experiments import Plan, reproduce
from tests.experiments.quiet import Quiet
from tests.experiments.toy import TINY, TOY, ToyTask


def orders(tmp_path, *, arms, seeds):
    """The labels of every batch, by run in the order of the runs and by epoch."""
    seen = []

    class Watching(ToyTask):
        def batches(self, order):
            epoch = list(super().batches(order))
            seen.append(torch.cat([x.flatten() for x, _ in epoch]).tolist())
            return iter(epoch)

    experiment = dataclasses.replace(TOY, load=Watching)
    preset = dataclasses.replace(TINY, epochs=2)
    plan = Plan(
        experiment=experiment,
        preset_name="tiny",
        preset=preset,
        backend="torch",
        arms=arms,
        seeds=seeds,
        out=tmp_path / "out",
        resume=False,
    )
    reproduce(plan, Quiet())
    return [seen[i : i + 2] for i in range(0, len(seen), 2)]


def test_both_norms_train_on_the_same_batches_in_the_same_order(tmp_path):
    default, seminorm = orders(tmp_path, arms=("default", "seminorm"), seeds=1)
    assert default == seminorm


def test_every_epoch_and_every_seed_has_an_order_of_its_own(tmp_path):
    first, second = orders(tmp_path, arms=("seminorm",), seeds=2)
    assert len({tuple(epoch) for epoch in (*first, *second)}) == 4
    assert len({tuple(sorted(epoch)) for epoch in (*first, *second)}) == 1
