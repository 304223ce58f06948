"""Random compositions of operators: views of views, fused with what is before and after them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.compiler.models import Model
from tests.compiler.operator_samples import Applied
from tests.compiler.test_opinfo import outcome

STEPS = {
    "tanh": torch.tanh,
    "square": lambda x: x * x / (1 + x.abs()),
    "gelu": F.gelu,
    "softplus": F.softplus,
    "where": lambda x: torch.where(x > 0.1, x.sin(), 2 * x),
    "clamp": lambda x: x.clamp(-0.7, 0.9),
    "softmax": lambda x: x.softmax(-1),
    "logsumexp": lambda x: x - x.logsumexp(0, keepdim=True),
    "centred": lambda x: x - x.mean(-1, keepdim=True),
    "scaled": lambda x: x / (1 + x.std(0, keepdim=True, correction=0)),
    "largest": lambda x: x * x.amax(-1, keepdim=True),
    "cumsum": lambda x: x.cumsum(-1) / x.shape[-1],
    "running": lambda x: x.cummax(0).values,
    "logcumsumexp": lambda x: x.logcumsumexp(-1) / x.shape[-1],
    "sorted": lambda x: x.sort(0).values,
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, -1),
    "transpose": lambda x: x.transpose(0, -1),
    "permute": lambda x: x.permute(tuple(reversed(range(x.ndim)))),
    "view": lambda x: x.reshape(x.shape[-1], -1),
    "unsqueeze": lambda x: x.unsqueeze(1) if x.ndim < 4 else x.squeeze(),
    "flatten": lambda x: x.flatten(0, 1) if x.ndim > 2 else x,
    "expand": lambda x: x.unsqueeze(0).expand(2, *x.shape) if x.ndim < 3 else x[0],
    "slice": lambda x: x[..., : max(x.shape[-1] - 1, 1)],
    "every-other": lambda x: x[::2],
    "halves": lambda x: torch.cat([x[1:].neg(), x[:1]], dim=0),
    "stack": lambda x: torch.stack([x, x.cos()], dim=-1) if x.ndim < 4 else x,
    "pad": lambda x: F.pad(x, (1, 0)),
    "tril": lambda x: x.tril(),
    "diagonal": lambda x: x + x.diagonal(0, 0, -1).sum(),
    "take": lambda x: x.index_select(-1, torch.tensor([0, x.shape[-1] - 1, 0])),
    "put": lambda x: x.index_add(0, torch.tensor([0, 0]), x[[-1, 0]]),
    "product": lambda x: x @ x.mT / x.shape[-1],
    "outer": lambda x: torch.einsum("...i,...j->...ij", x, x.sin()) if x.ndim < 3 else x.exp(),
    "convolved": lambda x: F.conv1d(x.reshape(-1, 1, x.shape[-1]), KERNEL.to(x), padding=1),
    "pooled": lambda x: F.max_pool1d(x.reshape(1, -1, x.shape[-1]), 2, ceil_mode=True),
}
KERNEL = torch.tensor([[[0.3, -0.5, 0.2]], [[0.1, 0.4, -0.6]]])
MOST = 4000
"""Elements beyond which a composition ends."""


class Composition(nn.Module):
    """Some steps in a row, the earlier results added where the shapes allow it."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def forward(self, x):
        seen = [x]
        for name in self.names:
            x = STEPS[name](x)
            for other in seen:
                if other.shape == x.shape:
                    x = x + 0.5 * other
            seen.append(x)
            if x.ndim == 0 or x.numel() > MOST:
                break
        return x


def composed(seed):
    draw = random.Random(seed)
    names = draw.choices(list(STEPS), k=draw.randint(3, 7))
    generator = torch.Generator().manual_seed(seed)
    shape = draw.choice([(4, 3), (2, 3, 4), (5, 2), (3, 2, 2)])
    y = torch.randn(shape, generator=generator, dtype=torch.float64)
    field = Applied.to(Composition(names))
    with torch.no_grad():
        z = torch.zeros_like(field.result(y))
    return names, Model(field, (y, z), ())


@pytest.mark.parametrize("seed", range(60))
def test_a_composition_and_its_gradient_equal_torch(seed):
    names, model = composed(seed)
    assert outcome(model, torch.float64) is None, names
