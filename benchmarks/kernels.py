"""What the kernels of the benchmark's vector fields take in Julia, one thread.

    python benchmarks/kernels.py [NAME ...]

For each problem of ``pysemi bench``: microseconds of one evaluation of f, and of what the
discrete adjoint does for each stage; the share of matrix products; and the lines of the tape
that take a twentieth of it or more.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from side_by_side.fields_torch import field
from side_by_side.problems import build, select

import pysemi
from pysemi.runtime.session import session


def main() -> None:
    torch.set_num_threads(1)
    names = select(sys.argv[1:] or ["a", "b", "c", "d", "e-50k", "f-small", "g"])
    julia = session()
    julia.evaluate("PySemi.BLAS.set_num_threads(1)")
    julia.evaluate(f'include(raw"{Path(__file__).with_suffix(".jl")}")')
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            problem = build(name, 2)
            compiled = pysemi.compile(field(problem, torch.float32), torch.from_numpy(problem.y0))
            file = Path(folder) / f"{name}.tape"
            file.write_text(str(compiled.tape))
            print(f"== {name}")
            call = f'kernel_times(raw"{file}", ("field", "record", "reverse", "gather"))'
            print(julia.evaluate(f"Base.invokelatest(() -> {call})"), flush=True)


if __name__ == "__main__":
    main()
