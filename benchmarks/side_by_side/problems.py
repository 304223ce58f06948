"""The problems, in NumPy: every package gets these numbers and no others.

All numbers are float32, times and loss weights too, so that the reference, which computes in
float64, solves exactly what the packages are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PROBLEMS",
    "QUICK",
    "Array",
    "Problem",
    "autonomous",
    "build",
    "observation_counts",
    "select",
]

Array = NDArray[np.float32]
Activation = Literal["tanh", "softplus", "none"]


@dataclass(frozen=True, eq=False)
class Problem:
    r"""An initial value problem with a network in it, and a loss of its solution.

    The loss is :math:`\\sum_{i} w_i y_i^2` over all entries of the solution at all
    observation times, the start included.

    Attributes
    ----------
    name : str
        "a" to "g", with a size where there are several.
    kind : {"perceptron", "controlled", "convolution"}
        f is a perceptron on y; a perceptron's matrix times the slope of a control; or 3×3
        convolutions on y.
    parameters : tuple of ndarray
        Weight and bias of each layer in turn, as torch's layers have them.
    activations : tuple of str
        After each layer.
    y0 : ndarray
        The first dimension is the batch.
    t : ndarray
        Observation times; ``t[0]`` belongs to ``y0``.
    loss_weights : ndarray
        Shape ``(T, *y0.shape)``.
    tolerance, reference_tolerance : float
        Relative and absolute.
    power : int
        The perceptron gets y to this power.
    control : ndarray or None
        Shape ``(B, knots, channels)``, piecewise linear between equally far knots.
    """

    name: str
    kind: Literal["perceptron", "controlled", "convolution"]
    parameters: tuple[Array, ...]
    activations: tuple[Activation, ...]
    y0: Array
    t: Array
    loss_weights: Array
    tolerance: float
    reference_tolerance: float
    power: int = 1
    control: Array | None = None

    @property
    def observations(self) -> int:
        """How many times the loss looks at."""
        return len(self.t)

    @property
    def key(self) -> str:
        """Problem and number of observations, for people and file names."""
        return f"{self.name}-{self.observations}"

    @property
    def parameter_count(self) -> int:
        """Numbers in all parameters together."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def knots(self) -> Array | None:
        """Where the control's slope jumps, ends included."""
        if self.control is None:
            return None
        count = self.control.shape[1]
        return np.linspace(self.t[0], self.t[-1], count, dtype=np.float32)

    @property
    def gradient_bound(self) -> float:
        """The largest ``gradient_error`` with which a package counts as right.

        A gradient's error is that of a solve or two, made larger by a long horizon.
        """
        return max(1e-3, 100 * self.tolerance)

    def digest(self) -> str:
        """Tell this problem from any other that ever had its name."""
        digest = hashlib.sha256(repr((self.kind, self.activations, self.power)).encode())
        for array in (*self.parameters, self.y0, self.t, self.loss_weights, self.control):
            if array is not None:
                digest.update(array.tobytes())
        digest.update(f"{self.reference_tolerance}".encode())
        return digest.hexdigest()[:16]


def _layer(
    generator: np.random.Generator, outputs: int, *inputs: int, gain: float
) -> tuple[Array, Array]:
    """Weight and bias of torch's own initial distribution, times a gain."""
    bound = gain / np.sqrt(np.prod(inputs))
    weight = generator.uniform(-bound, bound, (outputs, *inputs))
    bias = generator.uniform(-bound, bound, outputs)
    return weight.astype(np.float32), bias.astype(np.float32)


def _perceptron(
    generator: np.random.Generator, widths: Sequence[int], gain: float
) -> tuple[Array, ...]:
    layers = [_layer(generator, after, before, gain=gain) for before, after in pairwise(widths)]
    return tuple(array for layer in layers for array in layer)


def _loss_weights(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    # Every entry counts differently, and the loss is of the size of y².
    weights = generator.uniform(0.2, 1.3, shape) / np.prod(shape)
    return weights.astype(np.float32)


def autonomous(
    name: str,
    observations: int,
    *,
    widths: Sequence[int],
    activations: tuple[Activation, ...] = ("tanh", "tanh", "none"),
    batch: int,
    horizon: float,
    gain: float,
    power: int = 1,
    seed: int = 0,
) -> Problem:
    """A perceptron on y at tolerance 1e-6.

    The seeds of the long horizons are such that the solution can be solved backward; what
    cannot has no gradient by a backsolving adjoint, here or elsewhere.
    """
    generator = np.random.default_rng(seed)
    parameters = _perceptron(generator, widths, gain)
    y0 = generator.standard_normal((batch, widths[0])).astype(np.float32)
    return Problem(
        name=name,
        kind="perceptron",
        parameters=parameters,
        activations=activations,
        y0=y0,
        t=np.linspace(0, horizon, observations, dtype=np.float32),
        loss_weights=_loss_weights(generator, (observations, *y0.shape)),
        tolerance=1e-6,
        reference_tolerance=1e-10,
        power=power,
    )


def _controlled(
    name: str, observations: int, *, batch: int, channels: int, hidden: int, width: int
) -> Problem:
    generator = np.random.default_rng(0)
    length, horizon = 50, 1.0
    parameters = _perceptron(generator, (hidden, width, hidden * channels), gain=1.0)
    y0 = generator.standard_normal((batch, hidden)).astype(np.float32)
    # Channel 0 is time, as in the papers; the others are rough paths of size one.
    steps = generator.standard_normal((batch, length, channels)) / np.sqrt(length)
    control = np.cumsum(steps, axis=1)
    control[..., 0] = np.linspace(0, horizon, length)
    return Problem(
        name=name,
        kind="controlled",
        parameters=parameters,
        activations=("softplus", "tanh"),
        y0=y0,
        t=np.linspace(0, horizon, observations, dtype=np.float32),
        loss_weights=_loss_weights(generator, (observations, *y0.shape)),
        tolerance=1e-4,
        reference_tolerance=1e-8,
        control=control.astype(np.float32),
    )


def _convolution(name: str, observations: int) -> Problem:
    generator = np.random.default_rng(0)
    batch, channels, side = 16, 8, 16
    layers = [_layer(generator, channels, channels, 3, 3, gain=2.0) for _ in range(2)]
    y0 = generator.standard_normal((batch, channels, side, side)).astype(np.float32)
    return Problem(
        name=name,
        kind="convolution",
        parameters=tuple(array for layer in layers for array in layer),
        activations=("tanh", "none"),
        y0=y0,
        t=np.linspace(0, 2, observations, dtype=np.float32),
        loss_weights=_loss_weights(generator, (observations, *y0.shape)),
        tolerance=1e-4,
        reference_tolerance=1e-8,
    )


_many_parameters = partial(autonomous, batch=1, horizon=5.0, gain=1.5)
"""w² + 6 w + 2 of them, w being the width."""

_MAKERS: dict[str, tuple[Callable[[str, int], Problem], tuple[int, ...]]] = {
    # The first demo of torchdiffeq, with one more layer.
    "a": (
        partial(
            autonomous, widths=(2, 50, 50, 2), batch=20, horizon=25.0, gain=1.0, power=3, seed=9
        ),
        (2, 20),
    ),
    "b": (partial(autonomous, widths=(10, 64, 64, 10), batch=1, horizon=5.0, gain=1.5), (2,)),
    "c": (partial(autonomous, widths=(64, 128, 128, 64), batch=256, horizon=5.0, gain=1.5), (2,)),
    # Of ``benchmarks/small_neural_ode.py`` in Diffrax's repository.
    "d": (
        partial(
            autonomous,
            widths=(4, 32, 4),
            activations=("softplus", "tanh"),
            batch=64,
            horizon=100.0,
            gain=1.0,
            seed=4,
        ),
        (2, 100),
    ),
    "e-50k": (partial(_many_parameters, widths=(2, 221, 221, 2)), (2,)),
    "e-500k": (partial(_many_parameters, widths=(2, 704, 704, 2)), (2,)),
    "e-5M": (partial(_many_parameters, widths=(2, 2233, 2233, 2)), (2,)),
    "f-small": (partial(_controlled, batch=32, channels=13, hidden=16, width=32), (2,)),
    "f-large": (partial(_controlled, batch=256, channels=20, hidden=64, width=128), (2,)),
    "g": (_convolution, (2,)),
}

PROBLEMS = tuple(_MAKERS)
QUICK = ("a", "b", "d", "e-50k", "f-small")


def build(name: str, observations: int) -> Problem:
    """Make a problem; the same each time and everywhere."""
    make, _ = _MAKERS[name]
    return make(name, observations)


def observation_counts(name: str) -> tuple[int, ...]:
    """With how many observation times a problem is solved."""
    return _MAKERS[name][1]


def select(wanted: Sequence[str]) -> list[str]:
    """Names of problems, in their own order; a letter stands for all of its sizes.

    Raises
    ------
    ValueError
        If there is no such problem.
    """
    for name in wanted:
        if not any(name in (known, known.partition("-")[0]) for known in PROBLEMS):
            raise ValueError(f"there is no problem {name!r}; there are {', '.join(PROBLEMS)}")
    return [known for known in PROBLEMS if known in wanted or known.partition("-")[0] in wanted]
