"""What continuous normalising flows can be trained with: the norms, and one of their own."""

from __future__ import annotations

from collections.abc import Mapping

from pysemi.experiments.arms import NORMS, Arm
from pysemi.norms import StateNorm

__all__ = ["FLOW_ARMS"]

FLOW_ARMS: Mapping[str, Arm] = {
    **NORMS,
    "no-log-density": Arm(
        "no-log-density",
        {"options": {"norm": StateNorm([True, False])}, "adjoint_options": {"norm": "seminorm"}},
    ),
}
"""With "no-log-density" neither solve looks at the log-density, which is only an integral too:
section 2.2 of the paper, "Other channels"."""
