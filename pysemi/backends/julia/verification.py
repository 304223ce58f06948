"""Whether a compiled field agrees with the PyTorch function that it was compiled from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysemi.backends.julia.fields import Binding, CompiledField
from pysemi.compiler.compiled import flat_field
from pysemi.compiler.trace import evaluate_joint
from pysemi.problem import Problem
from pysemi.runtime.border import Border, Level, Status

__all__ = ["disagreement"]

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference allowed, relative to the largest entry: rounding, with room for
cancellation (and for constants that torch itself rounds to single precision), but far from
any mistake."""


def disagreement(
    border: Border, binding: Binding, problem: Problem, params: Sequence[Tensor] | None
) -> str | None:
    """Evaluate both at the start, and say where they differ; None if they agree.

    On the home thread only.
    """
    field = binding.field
    assert isinstance(field, CompiledField)
    binding.bind()
    y = problem.y0.detach()
    t = problem.t[0].detach().to(y.dtype)
    # Fixed, and different in each direction, so that no component goes unseen.
    cotangent = torch.linspace(-1, 1.7, y.numel(), dtype=y.dtype).view(y.shape)
    memory = field.memory
    memory["t"].fill_(t)
    memory["y"].copy_(y.reshape(-1))
    memory["cotangent"].copy_(cotangent.reshape(-1))
    level = Level.FIELD if params is None else Level.JOINT
    status = border.call("evaluate", field.number, int(level))
    if status is not Status.SUCCESS:
        return f"Julia could not run it ({border.message()})"
    flat = flat_field(problem.func, problem.layout)
    if params is None:
        with torch.no_grad():
            expected: list[tuple[str, Tensor | None, Tensor]] = [
                ("f", flat(t, y).detach(), memory["dy"])
            ]
    else:
        dy, y_bar, *params_bar = evaluate_joint(flat, t, y, cotangent, params)
        expected = [("f", dy, memory["dy"]), ("its VJP with respect to y", y_bar, memory["y_bar"])]
        offset = 0
        for index, (param, bar) in enumerate(zip(params, params_bar, strict=True)):
            ours = memory["params_bar"][offset : offset + param.numel()]
            expected.append((f"its VJP with respect to parameter {index}", bar, ours))
            offset += param.numel()
    for name, theirs, ours in expected:
        difference = _relative_difference(theirs, ours)
        if not difference <= TOLERANCE[y.dtype]:
            return f"the compiled {name} differs from PyTorch's by {difference:.1e}"
    return None


def _relative_difference(theirs: Tensor | None, ours: Tensor) -> float:
    if theirs is None:
        return float(ours.abs().max())
    flat = theirs.detach().reshape(-1)
    finite = torch.isfinite(flat)
    if not torch.equal(finite, torch.isfinite(ours)):
        return float("inf")
    if not finite.any():
        return 0.0
    flat, ours = flat[finite], ours[finite]
    scale = max(float(flat.abs().max()), 1e-6)
    return float((flat - ours).abs().max()) / scale
