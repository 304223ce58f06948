r"""Neural controlled differential equations.

Kidger, Morrill, Foster & Lyons, "Neural Controlled Differential Equations for
Irregular Time Series", NeurIPS 2020; used in section 3.1 of the seminorm paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pysemi.api import odeint_adjoint
from pysemi.errors import ArgumentError, describe

__all__ = ["ACTIVATIONS", "ControlledField", "MatrixField", "NeuralCDE"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class MatrixField(nn.Module):
    r"""A matrix-valued vector field g(z): a perceptron whose output passes through tanh.

    Parameters
    ----------
    input_channels : int
        Channels of the control, time included.
    hidden_channels : int
        Channels of the state z.
    width : int
        Units in each hidden layer.
    depth : int
        Number of hidden layers, at least 1.
    activation : str
        Of the hidden layers: "relu" (the paper), "silu", "softplus" or "tanh". A
        ReLU's kinks limit the order of a solver; at tight tolerances a smooth
        activation takes fewer steps.

    Examples
    --------
    >>> MatrixField(3, 8, width=16, depth=2)(torch.zeros(5, 8)).shape
    torch.Size([5, 8, 3])
    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        *,
        width: int,
        depth: int,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ArgumentError(
                "activation", f"{describe(activation)} is not one of {', '.join(ACTIVATIONS)}"
            )
        if depth < 1:
            raise ArgumentError("depth", f"{depth}; give at least one hidden layer")
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        layers: list[nn.Module] = []
        for inputs in (hidden_channels, *[width] * (depth - 1)):
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, hidden_channels * input_channels))

    def forward(self, z: Tensor) -> Tensor:
        """Map z of shape ``(..., hidden)`` to a matrix of shape ``(..., hidden, input)``."""
        matrix = self.layers(z).unflatten(-1, (self.hidden_channels, self.input_channels))
        return torch.tanh(matrix)


class ControlledField(nn.Module):
    r"""The vector field :math:`f(t, z) = g(z) \frac{dX}{dt}(t)` that makes a CDE an ODE.

    Parameters
    ----------
    matrix_field : nn.Module
        g: ``(..., hidden)`` to ``(..., hidden, input)``.
    control : nn.Module
        X: its ``derivative(t)`` has shape ``(..., input)`` (torchcde's interpolations).
    """

    def __init__(self, matrix_field: nn.Module, control: nn.Module) -> None:
        super().__init__()
        self.matrix_field = matrix_field
        self.control = control

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return dz/dt, shape ``(..., hidden)``."""
        slope: Tensor = self.control.derivative(t)  # type: ignore[operator]
        matrix: Tensor = self.matrix_field(z)
        return (matrix @ slope.unsqueeze(-1)).squeeze(-1)


def _step_control(method: Any) -> dict[str, Any]:
    """Options with which one step may serve a whole interval between two knots.

    torchdiffeq's control never shrinks a step that was accepted. OrdinaryDiffEq's does, so
    as not to have the next one rejected, and then needs two steps where one would have
    passed: with a ReLU field and 29 knots, 108 backward steps instead of 29.
    """
    return {"controller": "torchdiffeq"} if method in (None, "dopri5", "bosh3") else {}


class NeuralCDE(nn.Module):
    r"""Neural CDE with the paper's form: linear in, controlled in between, linear out.

    .. math::
        z(t_0) = \ell_1(t_0, x_0), \quad
        z(T) = z(t_0) + \int_{t_0}^{T} g(z(s)) \frac{dX}{ds}(s)\, ds, \quad
        y = \ell_2(z(T))

    Parameters
    ----------
    times : Tensor
        Shape ``(length,)``: the observation times, shared by all series.
    input_channels, hidden_channels, output_channels : int
        Channels of the control (time included), of z, and of y.
    width, depth, activation
        Of the :class:`MatrixField`.
    interpolation : {"linear", "cubic"}
        Of the control, by torchcde. The derivative of a piecewise-linear control
        jumps at the observation times; they are passed to the solver as jump
        times, so that no step crosses one.
    solver : mapping
        Keyword arguments of :func:`pysemi.odeint_adjoint`, such as ``rtol``,
        ``atol``, ``backend`` and ``adjoint_options``.

    Examples
    --------
    >>> import torchcde
    >>> times = torch.linspace(0, 1, 10)
    >>> coefficients = torchcde.linear_interpolation_coeffs(torch.rand(32, 10, 3), times)
    >>> model = NeuralCDE(times, 3, 8, 2, width=16, depth=1,
    ...                   solver=dict(adjoint_options=dict(norm="seminorm")))
    >>> model(coefficients).shape  # doctest: +SKIP
    torch.Size([32, 2])
    """

    times: Tensor

    def __init__(
        self,
        times: Tensor,
        input_channels: int,
        hidden_channels: int,
        output_channels: int,
        *,
        width: int,
        depth: int,
        activation: str = "relu",
        interpolation: Literal["linear", "cubic"] = "linear",
        solver: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if interpolation not in ("linear", "cubic"):
            raise ArgumentError(
                "interpolation", f"{describe(interpolation)} is neither 'linear' nor 'cubic'"
            )
        self.register_buffer("times", times)
        self.interpolation = interpolation
        self.solver = dict(solver or {})
        self.initial = nn.Linear(input_channels, hidden_channels)
        self.matrix_field = MatrixField(
            input_channels, hidden_channels, width=width, depth=depth, activation=activation
        )
        self.readout = nn.Linear(hidden_channels, output_channels)

    def forward(self, coefficients: Tensor) -> Tensor:
        """Map interpolation coefficients to outputs.

        Parameters
        ----------
        coefficients : Tensor
            From ``torchcde.linear_interpolation_coeffs``, shape ``(batch, length,
            input)``, or from torchcde's cubic ones.

        Returns
        -------
        Tensor
            Shape ``(batch, output)``.
        """
        import torchcde  # an extra; imported where it is needed

        solver = dict(self.solver)
        if self.interpolation == "linear":
            control = torchcde.LinearInterpolation(coefficients, self.times)
            backsolve = solver.get("adjoint", "backsolve") == "backsolve"
            for name, method in (("options", "method"), ("adjoint_options", "adjoint_method")):
                chosen = solver.get(method) or solver.get("method")
                # Other adjoints have a control of their own, or the forward solve's steps.
                step_control = _step_control(chosen) if name == "options" or backsolve else {}
                solver[name] = {
                    **step_control,
                    **solver.get(name, {}),
                    "jump_t": control.grid_points,
                }
        else:
            control = torchcde.CubicSpline(coefficients, self.times)
        z = odeint_adjoint(
            ControlledField(self.matrix_field, control),
            self.initial(control.evaluate(self.times[0])),
            self.times[[0, -1]],
            **solver,
        )
        y: Tensor = self.readout(z[-1])
        return y
