"""ATen operators, each as a few lines over the builder, in files by kind.

Importing this package fills the registry. Nothing here knows how a node is computed
(``julia/PySemi/src/kernels`` does) or how a function was traced.
"""

from __future__ import annotations

from pysemi.compiler.ops import (
    creation,
    indexing,
    linear_systems,
    normalization,
    pointwise,
    products,
    reductions,
    views,
)
from pysemi.compiler.ops.registry import OPERATORS, Operator, operator

__all__ = [
    "OPERATORS",
    "Operator",
    "creation",
    "indexing",
    "linear_systems",
    "normalization",
    "operator",
    "pointwise",
    "products",
    "reductions",
    "views",
]
