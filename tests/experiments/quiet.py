"""A progress that keeps what it is told."""

from __future__ import annotations


class Quiet:
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def run_started(self, config, metric_name, batches, done):
        self.events.append(("start", config.label, batches, done))

    def batch_ended(self, config, loss, backward_nfe):
        self.events.append(("batch", loss, backward_nfe))

    def epoch_ended(self, config, epoch):
        self.events.append(("epoch", epoch))

    def run_ended(self, config, result):
        self.events.append(("end", config.label, result))
