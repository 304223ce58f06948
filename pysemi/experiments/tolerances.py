"""The tolerances of the paper's Table 1."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TABLE_1_TOLERANCES"]

TABLE_1_TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "rtol 1e-3": {"rtol": 1e-3, "atol": 1e-6},
    "rtol 1e-4": {"rtol": 1e-4, "atol": 1e-7},
    "rtol 1e-5": {"rtol": 1e-5, "atol": 1e-8},
}
"""As variants of a preset: the rows of the table."""
