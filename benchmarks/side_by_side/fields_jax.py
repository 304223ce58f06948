"""The problems' vector fields as JAX functions of (t, y, parameters)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from side_by_side.problems import Problem

__all__ = ["field", "parameters"]

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "none": lambda x: x,
}


def parameters(problem: Problem) -> tuple[Any, ...]:
    """Weights and biases, as the problem has them."""
    return tuple(jnp.asarray(array) for array in problem.parameters)


def field(problem: Problem) -> Callable[[Any, Any, Any], Any]:
    """The vector field f(t, y, parameters)."""

    def dense(x: Any, weight: Any, bias: Any) -> Any:
        # As equinox's layers have it. As x @ weight.T it took up to ten times as long for a
        # single trajectory: XLA's matrix-vector product wants the weight as it lies.
        return jax.vmap(lambda row: weight @ row + bias)(x)

    def convolve(x: Any, weight: Any, bias: Any) -> Any:
        # As one product with shifted copies: inside a while loop, XLA's own convolution took
        # three to five times as long on a CPU, whichever order its dimensions were in.
        batch, channels, height, width = x.shape
        size = weight.shape[-1]
        margin = size // 2
        x = jnp.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        shifted = [x[:, :, i : i + height, j : j + width] for i in range(size) for j in range(size)]
        copies = jnp.stack(shifted, axis=2).reshape(batch, channels * size**2, height * width)
        out = jnp.einsum("ok,bkn->bon", weight.reshape(len(weight), -1), copies)
        return out.reshape(batch, -1, height, width) + bias[:, None, None]

    layer = convolve if problem.kind == "convolution" else dense

    def net(y: Any, weights: Any) -> Any:
        pairs = zip(weights[::2], weights[1::2], strict=True)
        for (weight, bias), activation in zip(pairs, problem.activations, strict=True):
            y = _ACTIVATIONS[activation](layer(y, weight, bias))
        return y

    if problem.control is None:
        power = problem.power
        return lambda t, y, weights: net(y if power == 1 else y**power, weights)

    # A constant of the function: as an argument Diffrax's BacksolveAdjoint would solve for the
    # gradient of the control too. Time is the first dimension, the batch belongs to the value.
    values = jnp.asarray(problem.control.swapaxes(0, 1))
    channels = problem.control.shape[-1]
    control = diffrax.LinearInterpolation(ts=jnp.asarray(problem.knots), ys=values)

    def controlled(t: Any, z: Any, weights: Any) -> Any:
        matrix = net(z, weights).reshape(*z.shape, channels)
        return jnp.einsum("bhc,bc->bh", matrix, control.derivative(t))

    return controlled
