"""``pysemi doctor``: what pysemi has to work with, and whether it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pysemi.cli.julia import describe_compilations, describe_kernels, julia_rows
from pysemi.cli.rows import show

if TYPE_CHECKING:
    from pysemi.doctor import Diagnosis

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not try to load the Julia packages.")
    ] = False,
    limit: Annotated[
        float, typer.Option("--limit", min=1.0, help="Seconds that loading them may take.")
    ] = 120.0,
) -> None:
    """Say what pysemi has to work with, and whether it works.

    Ends with code 0 if what is configured works (no Julia is needed), else with
    code 1 and the command to run.
    """
    from pysemi.doctor import diagnose  # here: it imports torch

    diagnosis = diagnose(load=not quick, load_seconds=limit)
    if as_json:
        typer.echo(json.dumps(diagnosis.as_dict(), indent=2))
    else:
        show(_rows(diagnosis), diagnosis.problems, diagnosis.remedy)
    if not diagnosis.ok:
        raise typer.Exit(1)


def _rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    torch = diagnosis.torch
    rows = [
        ("pysemi", diagnosis.pysemi),
        ("Python", f"{diagnosis.python} ({diagnosis.executable})"),
        ("system", diagnosis.platform),
    ]
    if torch.version is None:
        rows.append(("torch", "cannot be imported"))
    else:
        rows += [
            ("torch", f"{torch.version} ({torch.build} build)"),
            ("  threads", str(torch.threads)),
            ("  BLAS", torch.blas or "unknown"),
            ("  GPUs", ", ".join(torch.gpus) or "none"),
        ]
    rows += [(name, found or "not installed") for name, found in diagnosis.distributions.items()]
    julia = diagnosis.julia
    if julia.found is not None and julia.report is not None:
        rows += julia_rows(julia.found, julia.report)
        if julia.kernels is not None:
            rows.append(("  kept kernels", describe_kernels(julia.kernels)))
        if julia.compilations is not None:
            rows.append(("  kept compilations", describe_compilations(julia.compilations)))
    else:
        unknown = "unknown" if julia.problem else "none is configured (none is needed)"
        rows.append(("Julia", unknown))
    if diagnosis.auto is not None:
        rows.append(('backend="auto"', f"{diagnosis.auto.name}: {diagnosis.auto.reason}"))
    return rows
