"""pysemi on Julia: the discrete adjoint, Gauss quadrature, and the paper's own way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from side_by_side.case import Case, Counts
from side_by_side.problems import Problem
from side_by_side.torch_case import Solve, TorchCase, describe_torch

__all__ = ["describe", "prepare", "settle", "variants"]

_VARIANTS: dict[str, dict[str, Any]] = {
    # With torchdiffeq's rule for the next step, which Diffrax's is too; the other adjoints'
    # interpolants are better with OrdinaryDiffEq's own.
    "discrete": {"adjoint": "discrete", "options": {"controller": "torchdiffeq"}},
    "gauss": {"adjoint": "gauss"},
    "backsolve-seminorm": {"adjoint": "backsolve", "adjoint_options": {"norm": "seminorm"}},
}

# The library behind each of Julia's BLAS interfaces, and for which processor it chose its
# kernels, where it can be asked.
_BLAS = """
try
    Libdl, found = Base.Libc.Libdl, String[]
    for lib in PySemi.BLAS.get_config().loaded_libs
        core = ""
        for name in (:openblas_get_corename64_, :openblas_get_corename)
            pointer = Libdl.dlsym(Libdl.dlopen(lib.libname), name; throw_error = false)
            pointer === nothing || (core = " (" * unsafe_string(ccall(pointer, Cstring, ())) * ")")
        end
        push!(found, basename(lib.libname) * core)
    end
    join(found, ", ")
catch problem
    "unknown: " * sprint(showerror, problem)
end
"""


def describe() -> dict[str, str]:
    """As every package; starts Julia, which is no part of any measurement.

    Raises
    ------
    BackendUnavailableError
        If no usable Julia is configured.
    """
    import pysemi
    from pysemi.runtime.session import session

    # Before Julia starts: of torch alone.
    described = describe_torch()
    running = session()
    return {
        "pysemi": pysemi.__version__,
        "Julia": str(running.evaluate("string(VERSION)")),
        "Julia BLAS": str(running.evaluate(_BLAS)),
        **described,
    }


# What solves kept for their gradients is used again by the next ones, which would not be seen.
_SETTLE = """
begin
    for field in values(PySemi.HELD)
        field isa PySemi.Field && empty!(field.pool.spare)
    end
    GC.gc()
end
"""


def settle() -> None:
    """Have Julia give back what nobody needs."""
    from pysemi.runtime.session import session

    running = session()
    running.run(lambda border: None)  # solutions that were dropped are let go of with a call
    running.evaluate(_SETTLE)


def variants(problem: Problem) -> tuple[str, ...]:
    return tuple(_VARIANTS)


def prepare(problem: Problem, variant: str) -> Case:
    return _Recorded(problem, _solver(problem, variant))


class _Recorded(TorchCase):
    """Evaluations happen in Julia, so pysemi is asked for their number."""

    def count(self) -> Counts:
        import pysemi

        with pysemi.record() as solves:
            self.solve()
        return Counts(solves.forward[0].nfe, solves.backward[0].nfe)


def _solver(problem: Problem, variant: str) -> Solve:
    import pysemi

    arguments = dict(_VARIANTS[variant])
    options = dict(arguments.pop("options", {}))
    if problem.knots is not None:
        # As pysemi.models.NeuralCDE does it: one step may serve a whole piece of the control.
        jumps = torch.from_numpy(problem.knots)[1:-1]
        options = {"jump_t": jumps, "controller": "torchdiffeq"}
    backward = dict(arguments.pop("adjoint_options", {}))
    if variant == "backsolve-seminorm":
        backward |= options
    elif "jump_t" in options:
        backward["jump_t"] = options["jump_t"]

    def run(field: nn.Module, y0: Tensor, t: Tensor) -> Tensor:
        y: Tensor = pysemi.odeint_adjoint(
            field,
            y0,
            t,
            rtol=problem.tolerance,
            atol=problem.tolerance,
            method="dopri5",
            options=options,
            adjoint_options=backward,
            backend="julia",
            bridge="compiled",
            **arguments,
        )
        return y

    return run
