"""pysemi beside torchdiffeq, Diffrax and torchode: one training step's solves.

The same problems, weights, tolerances and observation times for every package, float32, one
thread. Each package runs in a process of its own; before a variant is timed, its loss and its
gradient are held against torchdiffeq in float64. docs/performance.md says how to read the
result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import growth
from side_by_side.machine import describe_machine, load
from side_by_side.measure import Budget, Row, measure
from side_by_side.problems import PROBLEMS, QUICK, build, observation_counts, select
from side_by_side.report import ratios_table, rows_table, write_json
from side_by_side.workers import Worker, WorkerError

PEERS = ("torchdiffeq", "diffrax", "torchode")
START_SECONDS = 1800.0
"""For a package to start: the first time after a change, PySemi.jl is compiled."""
REFERENCE_SECONDS = 900.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--growth" in argv:
        return growth.main([argument for argument in argv if argument != "--growth"])
    arguments = _arguments(argv)
    budget = Budget(limit_seconds=arguments.limit)
    if arguments.quick:
        budget = Budget(turns=3, turn_seconds=0.15, limit_seconds=arguments.limit)
    if arguments.repeats is not None:
        budget = Budget(arguments.repeats, budget.turn_seconds, budget.most, arguments.limit)
    names = arguments.problems or (QUICK if arguments.quick else PROBLEMS)
    with (
        _workers(["pysemi", *arguments.against]) as (workers, versions),
        _references(arguments.references) as references,
    ):
        machine = describe_machine(versions, list(argv))
        for package, described in versions.items():
            words = ", ".join(f"{name} {value}" for name, value in described.items())
            print(f"{package}: {words}", flush=True)
        rows: list[Row] = []
        for name in names:
            for observations in observation_counts(name):
                problem = build(name, observations)
                _say(f"{name}, {observations} observations")
                file = references / f"{problem.key}-{problem.digest()}.npz"
                if not file.exists():
                    _make_reference([name, observations], file)
                rows += measure(problem, workers, file, budget)
                machine["load_end"] = load()
                if arguments.json is not None:  # after each problem, so that a stop costs one
                    write_json(arguments.json, machine, rows)
    print(f"\n{rows_table(rows)}")
    ratios = ratios_table(rows)
    if ratios:
        print(f"\n{ratios}")
    print(f"\nload at the start {machine['load_start']}, at the end {machine['load_end']}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pysemi bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small problems, few repeats")
    parser.add_argument(
        "--growth",
        action="store_true",
        help="time and memory against the size of the problem instead; --growth --help says more",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument(
        "--problems",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(PROBLEMS)}; a letter stands for all of its sizes",
    )
    parser.add_argument("--against", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each variant")
    parser.add_argument(
        "--limit",
        type=float,
        default=Budget.limit_seconds,
        metavar="SECONDS",
        help="for one answer of a package; a variant that takes longer is left out",
    )
    parser.add_argument(
        "--references", type=Path, metavar="FOLDER", help="keep the float64 gradients here"
    )
    arguments = parser.parse_args(argv)
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error("--repeats: at least 1")
    if arguments.problems:
        try:
            arguments.problems = select(arguments.problems)
        except ValueError as error:
            parser.error(str(error))
    return arguments


@contextmanager
def _workers(packages: Sequence[str]) -> Iterator[tuple[list[Worker], dict[str, dict[str, str]]]]:
    """Start the packages that can be used, and say which cannot."""
    workers: list[Worker] = []
    versions = {}
    try:
        for package in dict.fromkeys(packages):
            worker = Worker(package)
            workers.append(worker)
            try:
                versions[package] = worker.ask({"do": "describe"}, START_SECONDS)["versions"]
            except WorkerError as error:
                print(f"{package} is left out: {error}", flush=True)
                worker.stop()
                workers.remove(worker)
        yield workers, versions
    finally:
        for worker in workers:
            worker.stop()


@contextmanager
def _references(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def _make_reference(problem: list[str | int], file: Path) -> None:
    # In a process of its own, whose memory is free again when the packages have their turn.
    worker = Worker("torchdiffeq")
    try:
        worker.ask({"do": "reference", "problem": problem, "file": str(file)}, REFERENCE_SECONDS)
    finally:
        worker.stop()


def _say(text: str) -> None:
    """Show progress where someone watches, and nowhere else."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except WorkerError as error:
        print(f"pysemi bench: error: {error}", file=sys.stderr)
        sys.exit(1)
