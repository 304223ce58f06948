"""What a user waits for before the first gradient, and how little the next one.

    python benchmarks/start.py

Each line is measured in a process of its own, three times; the median is shown. Julia's packages
are compiled before (``pysemi julia install`` does that); what is kept on disk is in a folder that
is empty at first. A model's first gradient, once Julia has started, is a whole call of
``odeint_adjoint`` and ``backward()``: it traces, lowers, compiles what kernels are new, checks
the result against PyTorch, and solves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
REPEATS = 3
COMPILED_WITHIN = 180.0
"""Seconds for Julia to compile kernels in the background."""


def imports() -> dict[str, float]:
    import torch  # noqa: F401

    began = time.perf_counter()
    import pysemi

    pysemi.odeint_adjoint  # noqa: B018  (names are imported when they are first asked for)
    return {"`import pysemi`, and its solvers, beyond `import torch`": time.perf_counter() - began}


def julia() -> dict[str, float]:
    import torch  # noqa: F401

    from pysemi.runtime.session import session

    began = time.perf_counter()
    running = session()
    started = time.perf_counter() - began
    running.home.run(lambda: running.library.text("PySemi.load_adjoints()", locked=False))
    return {
        "Julia's start, for forward solves and the discrete adjoint": started,
        "Julia's start, with SciMLSensitivity": time.perf_counter() - began,
    }


def start() -> dict[str, float]:
    import torch  # noqa: F401

    from pysemi.backends import settle_backend

    began = time.perf_counter()
    settle_backend("julia")
    return {
        "Julia's start, as a solve makes it: torch prepares to trace meanwhile": time.perf_counter()
        - began
    }


def gradients(name: str) -> dict[str, float]:
    """The first gradient of a model, one more, and one of another object of its structure."""
    import torch

    import pysemi
    from pysemi.backends import settle_backend
    from tests.compiler.models import build

    torch.set_num_threads(1)
    settle_backend("julia")

    def step(field: Any, y0: Any) -> float:
        began = time.perf_counter()
        y = pysemi.odeint_adjoint(
            field,
            y0,
            torch.tensor([0.0, 0.5]),
            rtol=1e-3,
            atol=1e-3,
            adjoint="discrete",
            backend="julia",
            bridge="compiled",
        )
        y[-1].sum().backward()
        return time.perf_counter() - began

    one, other = build(name, torch.float32), build(name, torch.float32)
    with torch.no_grad():
        for param in other.field.parameters():
            param.mul_(0.9)
    first = step(one.field, one.y)
    again = median(step(one.field, one.y) for _ in range(20))
    another = step(other.field, other.y)
    graph = pysemi.compile(one.field, one.y)
    print(f"{name}: {graph.kernels} kernels", file=sys.stderr)
    return {"first": first, "the same again": again, "the same structure, other weights": another}


def measured(what: str, *arguments: str, folder: Path) -> dict[str, float]:
    """The answer of a process of its own."""
    environment = {**os.environ, "PYSEMI_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, __file__, what, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def repeated(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    runs = [measure() for _ in range(REPEATS)]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def wait_for_kernels(folder: Path) -> bool:
    """Whether the packages that were written are compiled in the end; a quick model has none."""
    packages = list(folder.glob("kernels/*/*/Project.toml"))
    ended = time.monotonic() + COMPILED_WITHIN
    while time.monotonic() < ended:
        if len(list(folder.glob("kernels/*/compiled/*/*/*.ji"))) >= len(packages):
            return True
        time.sleep(1)
    return False


def main() -> None:
    if len(sys.argv) > 1:
        act = {"imports": imports, "julia": julia, "start": start, "gradients": gradients}[
            sys.argv[1]
        ]
        print(json.dumps(act(*sys.argv[2:])))
        return
    print("| | s |\n|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for what in ("imports", "julia", "start"):
            found = repeated(lambda what=what: measured(what, folder=Path(temporary)))
            for name, seconds in found.items():
                print(f"| {name} | {seconds:.2f} |", flush=True)
    for model, title in (
        ("perceptron-tanh", "a perceptron"),
        ("symplectic-2", "Symplectic ODE-Net"),
    ):
        runs = []
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
                folder = Path(temporary)
                run = measured("gradients", model, folder=folder)
                if wait_for_kernels(folder):
                    later = measured("gradients", model, folder=folder)
                    run["the same structure, in a new process"] = later["first"]
                runs.append(run)
        for name in runs[0]:
            seconds = median(run[name] for run in runs if name in run)
            print(f"| {title}: {name} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
