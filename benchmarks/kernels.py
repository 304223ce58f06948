"""What the kernels of the benchmark's vector fields take in Julia, one thread.

    python benchmarks/kernels.py [NAME ...]

For each problem of ``pysemi bench``: microseconds of one evaluation of f, and of what the
discrete adjoint does for each stage; the share of matrix products; and the lines of the tape
that take a twentieth of it or more. A table at the end says what of a training step's solves
these are: milliseconds of the step, of it Julia's solves, and of these the kernels.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from side_by_side.by_pysemi import prepare
from side_by_side.fields_torch import field
from side_by_side.problems import build, select

import pysemi
from pysemi.runtime.session import session

STEPS = 50

HEAD = """\
| | a step | forward in Julia | of it f | backward in Julia | of it products |
|---|---|---|---|---|---|"""


def row(name: str, kernels: dict[str, float]) -> str:
    """Of the table; milliseconds, with microseconds of the kernels given."""
    case = prepare(build(name, 2), "discrete")
    for _ in range(5):
        case.step()
    whole = median(case.step().step for _ in range(STEPS))
    with pysemi.record() as solves:
        for _ in range(STEPS):
            case.step()
    forward, backward = (
        1e3 * median(x.seconds for x in found) for found in (solves.forward, solves.backward)
    )
    evaluations, products = solves.forward[-1].nfe, solves.backward[-1].nvjp
    of_f = 1e-3 * evaluations * kernels["field"]
    of_products = 1e-3 * products * (kernels["reverse"] + kernels.get("gathered", 0.0))
    numbers = (1e3 * whole, forward, of_f, backward, of_products)
    return f"| {name} | {' | '.join(f'{x:.3g}' for x in numbers)} |"


def main() -> None:
    torch.set_num_threads(1)
    names = select(sys.argv[1:] or ["a", "b", "c", "d", "e-50k", "f-small", "g"])
    julia = session()
    julia.evaluate("PySemi.BLAS.set_num_threads(1)")
    julia.evaluate(f'include(raw"{Path(__file__).with_suffix(".jl")}")')
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            problem = build(name, 2)
            compiled = pysemi.compile(field(problem, torch.float32), torch.from_numpy(problem.y0))
            file = Path(folder) / f"{name}.tape"
            file.write_text(str(compiled.tape))
            print(f"== {name}")
            call = f'kernel_times(raw"{file}", ("field", "record", "reverse", "gather"))'
            text = str(julia.evaluate(f"Base.invokelatest(() -> {call})"))
            print(text, flush=True)
            found = re.findall(r"^(\w+): ([\d.]+) µs", text, re.MULTILINE)
            rows.append(row(name, {program: float(time) for program, time in found}))
    print("\n".join([HEAD, *rows]))


if __name__ == "__main__":
    main()
