"""Runs made one after the other, or several at once in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from pysemi.errors import WorkerError
from pysemi.experiments.experiment import Experiment
from pysemi.experiments.preset import Preset
from pysemi.experiments.progress import Progress
from pysemi.experiments.run_directory import EpochRecord, RunConfig, RunDirectory

__all__ = ["Job", "make_runs"]


@dataclass(frozen=True)
class Job:
    """One run to be made.

    Attributes
    ----------
    experiment : Experiment
        Its functions are found by name in another process, so they may be no lambdas.
    config : RunConfig
    preset : Preset
        The variant's.
    directory : RunDirectory
        Already started.
    """

    experiment: Experiment
    config: RunConfig
    preset: Preset
    directory: RunDirectory

    def make(self, progress: Progress) -> dict[str, Any]:
        """Make the run here, with as many threads as its configuration says."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            return self.experiment.execute(self.config, self.preset, self.directory, progress)
        finally:
            torch.set_num_threads(before)


def make_runs(jobs: Sequence[Job], processes: int, progress: Progress) -> None:
    """Make every run, up to ``processes`` at once; one alone is made in this process.

    What a run came to is in its folder. The first run that fails ends the
    others at their last finished epoch, and Ctrl-C does so with all.

    Raises
    ------
    SolveError, DataError, ...
        As the first run that failed raised it.
    WorkerError
        If a process died.
    """
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            job.make(progress)
        return
    # Not by fork: Julia does not survive it, and torch's threads may not.
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    with _forwarding(messages, progress):
        pool = ProcessPoolExecutor(
            min(processes, len(jobs)), context, initializer=_start_worker, initargs=(messages,)
        )
        try:
            _await([pool.submit(_make, job) for job in jobs])
        except BaseException:
            _stop(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _await(futures: Sequence[Future[None]]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        try:
            future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process that made a run died (killed, or out of memory?); finished epochs are "
                "kept: go on with --resume, perhaps with fewer --jobs"
            ) from error


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers now; what they do can be gone on with from their last epoch."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


@contextlib.contextmanager
def _forwarding(messages: Any, progress: Progress) -> Iterator[None]:
    """Tell ``progress`` what the workers send, from a thread of its own."""
    ended = threading.Event()

    def forward() -> None:
        while True:
            try:
                verb, arguments = messages.get(timeout=0.1)
            except queue.Empty:
                if ended.is_set():
                    return
            else:
                getattr(progress, verb)(*arguments)

    thread = threading.Thread(target=forward, name="pysemi progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A worker killed while it sent something may have left half of it, which is waited for.
        thread.join(timeout=10)


_send: Callable[[Any], None] | None = None
"""In a worker: how its progress reaches the process that started it."""


def _start_worker(messages: Any) -> None:
    global _send
    _send = messages.put
    # Ctrl-C reaches every process of the terminal; the first one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="pysemi parent", daemon=True).start()


def _end_with_parent() -> None:
    """Do not go on alone when the process that wanted the runs was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(job: Job) -> None:
    assert _send is not None
    job.make(_Sender(_send))


class _Sender:
    """A progress in a worker."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send

    def run_started(self, config: RunConfig, metric_name: str, batches: int, done: int) -> None:
        self._send(("run_started", (config, metric_name, batches, done)))

    def batch_ended(self, config: RunConfig, loss: float, backward_nfe: int) -> None:
        self._send(("batch_ended", (config, loss, backward_nfe)))

    def epoch_ended(self, config: RunConfig, epoch: EpochRecord) -> None:
        self._send(("epoch_ended", (config, epoch)))

    def run_ended(self, config: RunConfig, result: Mapping[str, Any]) -> None:
        self._send(("run_ended", (config, result)))
