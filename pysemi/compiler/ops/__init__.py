"""ATen operators, each as a few lines, in files by kind.

An entry describes its operator to the builder, or takes it apart in torch, into operators that
have entries. Importing this package fills both tables. Nothing here knows how a node is
computed (``julia/PySemi/src/kernels`` does) or how a function was traced.
"""

from __future__ import annotations

from pysemi.compiler.ops import (
    attention,
    convolutions,
    creation,
    distances,
    indexing,
    linear_systems,
    normalization,
    pointwise,
    pooling,
    products,
    reductions,
    reflections,
    resampling,
    sampling,
    scans,
    sorting,
    views,
)
from pysemi.compiler.ops.registry import (
    DECOMPOSITIONS,
    OPERATORS,
    Operator,
    decomposition,
    operator,
)

__all__ = [
    "DECOMPOSITIONS",
    "OPERATORS",
    "Operator",
    "attention",
    "convolutions",
    "creation",
    "decomposition",
    "distances",
    "indexing",
    "linear_systems",
    "normalization",
    "operator",
    "pointwise",
    "pooling",
    "products",
    "reductions",
    "reflections",
    "resampling",
    "sampling",
    "scans",
    "sorting",
    "views",
]
