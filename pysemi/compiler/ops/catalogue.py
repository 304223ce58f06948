"""What compiles and what does not, as ``docs/operators.md`` shows it.

``python -m pysemi.compiler.ops > docs/operators.md`` writes the page. The lists of what goes by
callback are held against PyTorch's own samples by ``tests/compiler/test_opinfo.py``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

from pysemi.compiler.ops.registry import DECOMPOSITIONS, OPERATORS

__all__ = ["BY_CALLBACK", "IN_PART", "page"]

REASONS: dict[str, tuple[str, ...]] = {
    "complex numbers": (
        *("angle", "cdouble", "cfloat", "chalf", "complex", "polar", "stft", "view_as_complex"),
        *("fft.fft", "fft.fft2", "fft.fftn", "fft.hfft", "fft.hfft2", "fft.hfftn"),
        *("fft.ifft", "fft.ifft2", "fft.ifftn", "fft.ihfft", "fft.ihfft2", "fft.ihfftn"),
        *("fft.irfft", "fft.irfft2", "fft.irfftn", "fft.rfft", "fft.rfft2", "fft.rfftn"),
    ),
    "half precision": ("bfloat16", "half"),
    "decompositions whose work depends on the values": (
        *("linalg.cond", "linalg.eig", "linalg.eigh", "linalg.eigvals", "linalg.eigvalsh"),
        *("linalg.lstsq", "linalg.lstsq.grad_oriented", "linalg.pinv", "linalg.pinv.hermitian"),
        *("linalg.svd", "linalg.svdvals", "norm.nuc", "pinverse", "svd"),
    ),
    "factors that were not computed by the vector field itself": ("lu_unpack",),
    "results without a fixed shape": ("combinations", "masked_scatter", "masked_select"),
    "random numbers": (
        *("bernoulli", "nn.functional.fractional_max_pool2d"),
        *("nn.functional.fractional_max_pool3d", "nn.functional.multi_head_attention_forward"),
        *("nn.functional.rrelu", "normal", "normal.number_mean", "pca_lowrank", "svd_lowrank"),
    ),
    "a change of the module's own tensors": ("_batch_norm_with_update",),
    "Python code that looks at values": ("nn.functional.gaussian_nll_loss",),
    "functions without an entry": (
        *("_segment_reduce.lengths", "_segment_reduce.offsets", "frexp", "i0"),
        *("mode", "nextafter", "nn.functional.embedding_bag", "nn.functional.multi_margin_loss"),
        "nn.functional.multilabel_margin_loss",
        *(f"polygamma.polygamma_n_{n}" for n in range(5)),
        "special.polygamma.special_polygamma_n_0",
        *("special.i0e", "special.i1", "special.i1e", "special.ndtri"),
    ),
}
"""Why -> OpInfo's names of the operators, of which all samples are refused."""

BY_CALLBACK = {name: why for why, names in REASONS.items() for name in names}

IN_PART = {
    "_native_batch_norm_legit": "training with running statistics",
    "index_fill": "an index tensor of shape ()",
    "index_put": "a mask, unless one number is written where it holds",
    "linalg.lu": "matrices that are not square",
    "linalg.lu_factor": "matrices that are not square",
    "linalg.lu_factor_ex": "matrices that are not square",
    "linalg.lu_solve": "factors that were not computed by the vector field itself",
    "linalg.matrix_norm": "the nuclear and the spectral norm",
    "linalg.norm": "the nuclear and the spectral norm",
    "linalg.norm.subgradients_at_zero": "the nuclear and the spectral norm",
    "linalg.pinv.singular": "matrices that are not constant",
    "lu": "matrices that are not square",
    "lu_solve": "factors that were not computed by the vector field itself",
    "native_batch_norm": "training with running statistics",
    "nn.functional.alpha_dropout": "training",
    "nn.functional.batch_norm": "training with running statistics",
    "nn.functional.dropout": "training",
    "nn.functional.dropout2d": "training",
    "nn.functional.dropout3d": "training",
    "nn.functional.feature_alpha_dropout.with_train": "training",
    "nn.functional.instance_norm": "training with running statistics",
    "nn.functional.linear_cross_entropy.chunked": "chunks of the batch",
    "nn.functional.linear_cross_entropy.chunked_none": "chunks of the batch",
    "nn.functional.scaled_dot_product_attention": "dropout",
    "repeat_interleave": "a tensor of counts",
}
"""OpInfo's names of operators of which some samples compile -> what does not."""

_INTRODUCTION = """\
# Operators

Written by `python -m pysemi.compiler.ops > docs/operators.md`; a test fails where this page is
behind.

A vector field compiles if every ATen operator of f and of its vector-Jacobian products has an
entry below, or is taken apart by PyTorch into operators that have one (most activations, losses
and norms are). `print(pysemi.explain(func, y0))` says so for yours. Each entry is held against
PyTorch's autograd on PyTorch's own samples of its arguments (OpInfo: broadcasting, shapes () and
with zeros, arguments that are not contiguous), in float32 and float64.
"""


def page() -> str:
    """The text of ``docs/operators.md``."""
    kinds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for overload, entry in {**OPERATORS, **DECOMPOSITIONS}.items():
        namespace, _, name = overload._schema.name.partition("::")
        shown = name if namespace == "aten" else f"{namespace}.{name}"
        kinds[entry.__module__][shown].add(overload._overloadname)
    parts = [_INTRODUCTION]
    for module, names in sorted(kinds.items()):
        title = module.rpartition(".")[2].replace("_", " ").capitalize()
        parts.append(f"## {title}\n\n{_first_paragraph(sys.modules[module])}\n\n{_listed(names)}\n")
    parts.append("## By callback\n\nWhat has no entry, by reason. Names are those of `torch`.\n")
    for why, refused in REASONS.items():
        parts.append(f"- {why}: {', '.join(f'`{name}`' for name in sorted(refused))}")
    parts.append("\nThese compile except for:\n")
    parts += [f"- `{name}`: {what}" for name, what in IN_PART.items()]
    return "\n".join(parts) + "\n"


def _first_paragraph(module: Any) -> str:
    return " ".join((module.__doc__ or "").split("\n\n")[0].split())


def _listed(names: dict[str, set[str]]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names, key=str.lower))
