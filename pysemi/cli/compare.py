"""``pysemi compare``: whether the torch and the Julia backend agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pysemi.comparison import Comparison, Differences
    from pysemi.stats import SolveStats

__all__ = ["compare"]


class Norm(str, Enum):
    """Norms of the backward solve."""

    default = "default"
    seminorm = "seminorm"
    rms = "rms"


class Adjoint(str, Enum):
    """Adjoints of the Julia backend."""

    backsolve = "backsolve"
    interpolating = "interpolating"
    gauss = "gauss"
    quadrature = "quadrature"
    discrete = "discrete"


class Precision(str, Enum):
    """Dtypes of state and parameters."""

    float64 = "float64"
    float32 = "float32"


class Bridge(str, Enum):
    """Ways in which Julia evaluates the vector field."""

    auto = "auto"
    compiled = "compiled"
    callback = "callback"


class Controller(str, Enum):
    """Step size controllers of the Julia backend."""

    default = "default"
    torchdiffeq = "torchdiffeq"


def compare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="spiral, cde, cde-linear, hamiltonian, cnf, van-der-pol, convolution, "
            "attention, graph, robertson (stiff), or all.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each model, one a line.")
    ] = False,
    norm: Annotated[Norm, typer.Option(help="Norm of the backward solve.")] = Norm.default,
    adjoint: Annotated[
        Adjoint | None,
        typer.Option(
            help="On Julia; torch has backsolve alone.",
            show_default="backsolve, or quadrature for a stiff model",
        ),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="Of states and weights.")] = Precision.float64,
    method: Annotated[
        str | None,
        typer.Option(
            help="A solver; dopri5 on torch where torchdiffeq has not got it.",
            show_default="dopri5, or Rodas5P for a stiff model",
        ),
    ] = None,
    bridge: Annotated[
        Bridge, typer.Option(help="How Julia evaluates the vector field.")
    ] = Bridge.auto,
    controller: Annotated[
        Controller, typer.Option(help="Step size control on Julia; torchdiffeq: the same steps.")
    ] = Controller.default,
    rtol: Annotated[
        float | None,
        typer.Option(
            min=1e-13,
            help="Relative and absolute tolerance.",
            show_default="1e-10 in float64, 1e-5 in float32",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one torch operation.")] = 1,
) -> None:
    """Solve a model on torch and on Julia and say whether loss and gradients agree.

    Ends with code 0 if they agree, and with code 1 if they differ by more than 1,000
    tolerances in float64 or 100 in float32, or if, with --controller torchdiffeq, the steps
    differ by more than 5 %.
    """
    import torch

    import pysemi.comparison as comparison

    setting = comparison.Setting(
        dtype=getattr(torch, dtype.value),
        rtol=rtol,
        method=method,
        norm=norm.value,
        adjoint=None if adjoint is None else adjoint.value,
        bridge=bridge.value,
        controller=controller.value,
    )
    torch.set_num_threads(threads)
    found = []
    everything = [*comparison.MODELS, *comparison.STIFF_MODELS]
    for model in everything if name == "all" else [name]:
        found.append(comparison.compare(model, setting))
        if as_json:
            typer.echo(json.dumps(found[-1].as_dict(), allow_nan=False))
    if not as_json:
        # A stiff model is solved in other ways, which the heading tells.
        for group in ([each for each in found if each.stiff is stiff] for stiff in (False, True)):
            if group:
                _show(group)
    if not all(each.agree for each in found):
        raise typer.Exit(1)


def _show(found: Sequence[Comparison]) -> None:
    import rich.table
    from rich import box
    from rich.console import Console

    apart = rich.table.Table(
        title="Differences, relative to the largest entry",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    apart.add_column("model", no_wrap=True)
    apart.add_column("between", no_wrap=True)
    for column in ("loss", "dL/dy0", "dL/dθ", "dL/dt"):
        apart.add_column(column, justify="right", no_wrap=True)
    work = rich.table.Table(title="Work", title_justify="left", box=box.SIMPLE_HEAD)
    work.add_column("model", no_wrap=True)
    work.add_column("backend", no_wrap=True)
    for column in ("NFE", "VJPs", "accepted", "rejected", "seconds"):
        work.add_column(column, justify="right", no_wrap=True)
    for each in found:
        from_torch, from_julia = each.from_reference
        apart.add_row(each.name, "torch, Julia", *_numbers(each.between))
        apart.add_row("", "torch, reference", *_numbers(from_torch))
        apart.add_row("", "Julia, reference", *_numbers(from_julia), end_section=True)
        rows = [
            (direction, side, getattr(measured, direction))
            for direction in ("forward", "backward")
            for side, measured in (("torch", each.torch), ("Julia", each.julia))
        ]
        for index, (direction, side, stats) in enumerate(rows):
            label = f"{side}, {direction}"
            work.add_row("" if index else each.name, label, *_work(stats))
        work.add_section()
    console = Console(highlight=False)
    with console.capture() as rendered:
        console.print(_heading(found[0]), soft_wrap=True)
        console.print(apart)
        console.print(work)
        for each in found:
            for line in each.disagreements:
                console.print(f"✗ {each.name}: {line}", style="red", soft_wrap=True)
            if each.agree:
                faster = each.torch.seconds / each.julia.seconds
                console.print(
                    f"✓ {each.name}: within {each.bound:.0e}; "
                    f"{each.torch.seconds:.3g} s on torch, {each.julia.seconds:.3g} s on Julia "
                    f"({faster:.3g} times as fast)",
                    soft_wrap=True,
                )
    typer.echo(rendered.get(), nl=False)


def _heading(found: Comparison) -> str:
    setting, julia = found.setting, found.julia
    dtype = str(setting.dtype).removeprefix("torch.")
    lines = [
        f"{dtype}, rtol = atol = {setting.tolerance:.0e}, backward norm: {setting.norm}",
        f"torch: {found.torch.forward.method}, {found.torch.backward.adjoint}",
        f"Julia: {julia.forward.method}, {julia.backward.adjoint}, {setting.controller} step size "
        f"control{_of_what(found)}, {julia.forward.bridge}",
        f"reference: {'sensitivities' if found.stiff else 'torch'} in float64 at 1e-12",
    ]
    return "\n".join(lines)


def _of_what(found: Comparison) -> str:
    only_forward = found.setting.controller != "default" and found.setting.adjoint != "backsolve"
    return " of the forward solve" if only_forward else ""


def _numbers(found: Differences) -> list[str]:
    shown = [f"{value:.1e}" for value in (found.loss, found.y0, found.theta)]
    return [*shown, "–" if found.t is None else f"{found.t:.1e}"]


def _work(stats: SolveStats) -> list[str]:
    counts = (stats.nfe, stats.nvjp, stats.accepted, stats.rejected)
    return [*("–" if count is None else f"{count:,}" for count in counts), f"{stats.seconds:.4f}"]
