"""A process that solves problems with one package, and answers requests, one JSON a line.

    python -m side_by_side.worker PACKAGE

==================================================== =======================================
Request                                              Answer
==================================================== =======================================
{"do": "describe"}                                   {"versions": {name: version or kernel}}
{"do": "reference", problem, file}                   {}; the file holds the gradient
{"do": "variants", problem}                          {"variants": [name, ...]}
{"do": "prepare", problem, variant, file}            {"first_s", "loss", "loss_error",
                                                     "gradient_error", "nfe_forward",
                                                     "nfe_backward"}
{"do": "time", problem, variant, seconds, most}      {"forward_s": [...], "backward_s": [...],
                                                     "step_s": [...], "cpus": used at once}
{"do": "forget"}                                     {}; what was prepared is gone
{"do": "grow", axis, value, variant, seconds}        {"step_s": [...], "peak_bytes": or null}
==================================================== =======================================

A problem is ``[name, observations]``. What goes wrong is answered as {"error": text}; the end
of the input ends the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from side_by_side.axes import AXES
from side_by_side.case import Case, Gradient, Package, Timing
from side_by_side.memory import peak_bytes
from side_by_side.problems import Problem, build

__all__ = ["Server", "serve"]

MOST_STEPS = 200
"""Of one point of a growth curve."""

LONG_SECONDS = 0.5
"""A solve that takes longer needs no other before it to be warm."""


class Server:
    """One package, and what it has prepared."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._cases: dict[tuple[str, str], Case] = {}
        self._last_s: dict[tuple[str, str], float] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; see the module's table."""
        act: Callable[..., dict[str, Any]] = getattr(self, f"_{request['do']}")
        arguments = {name: value for name, value in request.items() if name != "do"}
        if "problem" in arguments:
            arguments["problem"] = build(*arguments["problem"])
        return act(**arguments)

    def _describe(self) -> dict[str, Any]:
        return {"versions": self._package.describe()}

    def _reference(self, problem: Problem, file: str) -> dict[str, Any]:
        cast(Any, self._package).reference(problem).save(Path(file))
        return {}

    def _variants(self, problem: Problem) -> dict[str, Any]:
        return {"variants": list(self._package.variants(problem))}

    def _prepare(self, problem: Problem, variant: str, file: str) -> dict[str, Any]:
        reference = Gradient.load(Path(file))
        began = time.perf_counter()
        case = self._package.prepare(problem, variant)
        found = case.solve()
        first = time.perf_counter() - began
        counts = case.count()
        error = found.error(reference)
        self._cases[problem.key, variant] = case
        return {
            "first_s": first,
            "loss": found.loss,
            "loss_error": error.loss,
            "gradient_error": error.gradient,
            "nfe_forward": counts.forward,
            "nfe_backward": counts.backward,
        }

    def _time(
        self, problem: Problem, variant: str, seconds: float, most: int
    ) -> dict[str, list[float] | float]:
        key = (problem.key, variant)
        case = self._cases.get(key)
        if case is None:  # prepared by a process that was lost with another variant
            case = self._cases[key] = self._package.prepare(problem, variant)
            case.solve()
        gc.collect()
        if self._last_s.get(key, 0.0) < LONG_SECONDS:
            case.step()  # the caches are full of another package's numbers
        timings: list[Timing] = []
        processor = time.process_time()
        began = time.perf_counter()
        while not timings or (time.perf_counter() - began < seconds and len(timings) < most):
            timings.append(case.step())
        wall = time.perf_counter() - began
        self._last_s[key] = timings[-1].step
        return {
            "forward_s": [timing.forward for timing in timings],
            "backward_s": [timing.backward for timing in timings],
            "step_s": [timing.step for timing in timings],
            "cpus": (time.process_time() - processor) / wall,
        }

    def _grow(
        self, axis: str, value: int, variant: str, seconds: float
    ) -> dict[str, list[float] | int | None]:
        case = self._package.prepare(AXES[axis].problem(value), variant)
        case.solve()
        settle = getattr(self._package, "settle", None)
        if settle is not None:
            settle()
        peak = peak_bytes(case.step)
        steps: list[float] = []
        began = time.perf_counter()
        while len(steps) < MOST_STEPS and (not steps or time.perf_counter() - began < seconds):
            steps.append(case.step().step)
        return {"step_s": steps, "peak_bytes": peak}

    def _forget(self) -> dict[str, Any]:
        self._cases.clear()
        gc.collect()
        return {}


def serve(package: str) -> None:
    """Answer the requests on stdin until there are no more."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Nor may a library take a request for its own input.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    server: Server | None = None
    for line in requests:
        try:
            if server is None:
                module = importlib.import_module(f"side_by_side.by_{package}")
                server = Server(cast(Package, module))
            answer = server.answer(json.loads(line))
        except Exception as error:  # the parent decides what it means
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
