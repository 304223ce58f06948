"""torchdiffeq's functions, with a choice of backend.

The story of a call: check the arguments, lay the state out, choose a backend,
solve, and give the state back as the user had it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pysemi.adjoint import solve
from pysemi.backends import Backend, choose_backend
from pysemi.dense import DenseSolution
from pysemi.errors import ArgumentError
from pysemi.problem import Adjoint, EventFunction, Problem, VectorField, pose, pose_adjoint
from pysemi.recall import question, recall, remember
from pysemi.state import State, Tolerance
from pysemi.stats import open_recordings

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]


def odeint(
    func: VectorField,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: Any = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunction | None = None,
    backend: str = "auto",
    bridge: str = "auto",
    verify: str = "first",
    batch: str = "joint",
) -> Any:
    r"""Solve :math:`dy/dt = f(t, y),\; y(t_0) = y_0`; gradients go through the solver's steps.

    Arguments up to ``event_fn`` are torchdiffeq's. Every tensor that ``func`` reads and that
    requires a gradient gets one. On torch, autograd goes through the solver; on Julia, the
    steps are differentiated one by one, backward (:func:`odeint_adjoint` with
    ``adjoint="discrete"`` does the same for the tensors that it is told of).

    Parameters
    ----------
    func : callable
        f(t, y) -> dy/dt, t of shape ``()``, y and dy/dt like ``y0``.
    y0 : Tensor or tuple of Tensor
        Initial state, any shape, floating point; tuple components on one device.
    t : Tensor
        Shape ``(T,)``, strictly increasing or decreasing; ``t[0]`` belongs to ``y0``. For
        independent trajectories also ``(B, T)``: each its own.
    rtol, atol : float, Tensor or sequence
        Relative and absolute tolerance: a number, a tensor that broadcasts over
        the state, or one of these per component of a tuple state.
    method : str, optional
        A solver's name; "dopri5" if left out. On Julia also OrdinaryDiffEq's names
        ("Tsit5", "Vern7", for stiff problems "Rodas5P" or "KenCarp4"), and "auto",
        which changes over to a stiff method where the problem asks for it.
    options : dict, optional
        The solver's options. ``norm`` takes "default", "rms", a
        :class:`~pysemi.StateNorm` or a callable (see :mod:`pysemi.norms`);
        ``max_num_steps`` bounds the steps of the whole solve (100,000 if left
        out, for methods that choose their steps). On Julia, ``checkpoints`` is how much
        may be kept for the gradient, in states (as many as take 1 GiB; half of it is for
        what f computed on the way); what has no room is computed once more.
    event_fn : callable, optional
        Solve until this function of (t, y) changes sign; then ``t`` has two
        entries, and the first is the start.
    backend : {"auto", "torch", "julia"}
    bridge : {"auto", "compiled", "callback"}
        How the Julia backend evaluates ``func`` and ``event_fn``.
    verify : {"first", "always", "never"}
        Before which solves what was compiled is held against PyTorch: the first of each
        compiled function, all, or none. It takes a few evaluations in PyTorch.
    batch : {"joint", "independent"}
        "independent": the first dimension of ``y0`` counts trajectories, each solved with
        steps of its own, and ``func`` is called with one of them at a time, whose first
        dimension is 1. What else differs between them belongs into the state, as a
        component whose derivative is 0. Tolerances and norm are a trajectory's.

    Returns
    -------
    Tensor or tuple of Tensor
        The state at each time, shape ``(T, *y0.shape)`` (each component's, for a
        tuple). With ``event_fn``: the time of the event, and the states at start
        and event.

    Raises
    ------
    ArgumentError
        If an argument cannot be used; names it and its value.
    SolveError
        If the solve fails: :class:`~pysemi.errors.StepSizeUnderflowError`,
        :class:`~pysemi.errors.NonFiniteStateError`,
        :class:`~pysemi.errors.StepBudgetError`.
    BackendUnavailableError
        If the backend cannot run here.

    Examples
    --------
    >>> t = torch.linspace(0, 1, 3, dtype=torch.float64)
    >>> pysemi.odeint(lambda t, y: -y, torch.ones((), dtype=torch.float64), t)
    tensor([1.0000, 0.6065, 0.3679], dtype=torch.float64)
    """
    arguments = ("odeint", rtol, atol, method, event_fn, bridge, verify, batch)
    asked = question(y0, t, backend, arguments, options)
    known = recall(func, asked)
    if known is not None:
        return _solve(known.form.problem(func, y0, t), known.backend, known.adjoint)
    problem = pose(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        options=options,
        event_fn=event_fn,
        batch=batch,
    )
    chosen, accepted = choose_backend(backend, problem, None, bridge, verify)
    problem = remember(func, asked, problem, chosen, accepted)
    return _solve(problem, chosen, accepted)


def odeint_adjoint(
    func: VectorField,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: Any = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunction | None = None,
    adjoint_rtol: Tolerance | None = None,
    adjoint_atol: Tolerance | None = None,
    adjoint_method: Any = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
    backend: str = "auto",
    bridge: str = "auto",
    adjoint: str = "backsolve",
    verify: str = "first",
    batch: str = "joint",
) -> Any:
    r"""Solve as :func:`odeint`; gradients come from the adjoint equations, solved backward.

    Memory does not grow with the number of steps. With
    ``adjoint_options=dict(norm="seminorm")`` the backward solve does not look at
    the parameter channels when it chooses its steps, and takes fewer (Kidger,
    Chen & Lyons, ICML 2021).

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn, backend, bridge, verify, batch
        As for :func:`odeint`.
    adjoint_rtol, adjoint_atol : optional
        Tolerances of the backward solve; the forward ones if left out. A number,
        or one entry for each of (a_t, y, a_y, \*a_θ).
    adjoint_method : str, optional
        ``method`` if left out.
    adjoint_options : dict, optional
        Options of the backward solve; ``options`` without its norm if left out.
        ``norm`` takes "default", "seminorm", "rms", a
        :class:`~pysemi.StateNorm` or a callable (see :mod:`pysemi.norms`).
    adjoint_params : iterable of Tensor, optional
        The tensors that get a gradient, beside y0 and t; ``func.parameters()``
        if left out, and then ``func`` must be an ``nn.Module``.
    adjoint : str
        "backsolve", the paper's method. The others are the Julia backend's:
        "interpolating" takes y from the forward solve instead of solving for it again;
        "gauss" and "quadrature" also integrate dL/dθ apart from the solve;
        "discrete" is the gradient of the forward solve's own steps, and has no
        method, tolerances or norm.

    Returns
    -------
    Tensor or tuple of Tensor
        As for :func:`odeint`.

    Raises
    ------
    ArgumentError, SolveError, BackendUnavailableError
        As for :func:`odeint`; ``backward()`` raises SolveError too.
    DoubleBackwardError
        When the gradient itself is differentiated.

    Examples
    --------
    >>> func = torch.nn.Linear(2, 2)  # doctest: +SKIP
    >>> y = pysemi.odeint_adjoint(
    ...     lambda t, y: func(y), y0, t, adjoint_params=tuple(func.parameters()),
    ...     adjoint_options=dict(norm="seminorm"))  # doctest: +SKIP
    """
    params = None if adjoint_params is None else tuple(adjoint_params)
    arguments = ("odeint_adjoint", rtol, atol, method, event_fn, bridge, verify, batch)
    of_adjoint = (adjoint, adjoint_rtol, adjoint_atol, adjoint_method)
    asked = question(y0, t, backend, arguments + of_adjoint, options, adjoint_options, params)
    known = recall(func, asked)
    if known is not None:
        return _solve(known.form.problem(func, y0, t), known.backend, known.adjoint)
    problem = pose(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        options=options,
        event_fn=event_fn,
        batch=batch,
    )
    backward = pose_adjoint(
        problem,
        method=method,
        options=options,
        adjoint_rtol=adjoint_rtol,
        adjoint_atol=adjoint_atol,
        adjoint_method=adjoint_method,
        adjoint_options=adjoint_options,
        adjoint_params=params,
        adjoint=adjoint,
    )
    chosen, accepted = choose_backend(backend, problem, backward, bridge, verify)
    problem = remember(func, asked, problem, chosen, accepted, params)
    return _solve(problem, chosen, accepted)


def odeint_dense(
    func: VectorField,
    y0: State,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: Any = None,
    options: Mapping[str, Any] | None = None,
    backend: str = "auto",
    bridge: str = "auto",
    verify: str = "first",
) -> DenseSolution:
    """Solve from ``t0`` to ``t1``, and return the solution as a function of time.

    Between steps it is the method's own interpolant, whose error is that of the steps; its
    gradients are exact for it.

    Parameters
    ----------
    func, y0, rtol, atol, method, options, backend, bridge, verify
        As for :func:`odeint`. On Julia every explicit Runge-Kutta method will do, on torch
        "dopri5".
    t0, t1 : float or Tensor
        Start and end, shape ``()``; numbers are taken for float64.

    Returns
    -------
    DenseSolution
        Called with times of any shape, it returns the states there.

    Raises
    ------
    ArgumentError, SolveError, BackendUnavailableError
        As for :func:`odeint`.

    Examples
    --------
    >>> y = pysemi.odeint_dense(
    ...     lambda t, y: -y, torch.ones((), dtype=torch.float64), 0.0, 1.0)  # doctest: +SKIP
    >>> y(torch.tensor([0.1, 0.5]))  # doctest: +SKIP
    tensor([0.9048, 0.6065], dtype=torch.float64)
    """
    like = next((t for t in (t0, t1) if isinstance(t, Tensor)), torch.zeros(1, dtype=torch.float64))
    ends = [t if isinstance(t, Tensor) else torch.as_tensor(t).to(like) for t in (t0, t1)]
    for name, end in zip(("t0", "t1"), ends, strict=True):
        if end.numel() != 1:
            raise ArgumentError(name, f"has shape {tuple(end.shape)}; give one time")
    problem = pose(
        func,
        y0,
        torch.cat([end.reshape(1) for end in ends]),
        rtol=rtol,
        atol=atol,
        method=method,
        options=options,
        event_fn=None,
    )
    chosen, adjoint = choose_backend(backend, problem, None, bridge, verify)
    return DenseSolution(chosen, problem, adjoint, open_recordings())


def odeint_event(
    func: VectorField,
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFunction,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve until an event; the gradient of the event's time and state is linked up.

    Parameters
    ----------
    func, y0, event_fn
        As for :func:`odeint`.
    t0 : Tensor
        Start time, one element.
    reverse_time : bool
        Go backward in time from ``t0``.
    odeint_interface : callable
        :func:`odeint` or :func:`odeint_adjoint`.
    **kwargs
        Passed on to ``odeint_interface``.

    Returns
    -------
    event_t : Tensor
        Shape ``()``.
    y : Tensor or tuple of Tensor
        The states at ``t0`` and at the event, first dimension 2.

    Raises
    ------
    ArgumentError, SolveError, BackendUnavailableError
        As for :func:`odeint`. An event that never comes ends with
        :class:`~pysemi.errors.StepBudgetError`.

    Examples
    --------
    >>> t, y = pysemi.odeint_event(  # when does exp(-t) fall to a half?
    ...     lambda t, y: -y, torch.ones(1), torch.tensor(0.0),
    ...     event_fn=lambda t, y: y[0] - 0.5)  # doctest: +SKIP
    """
    import torchdiffeq

    # The implicit function theorem at the event is torchdiffeq's; only the solve
    # inside it is ours.
    result: tuple[Tensor, Any] = torchdiffeq.odeint_event(
        func,
        y0,
        t0,
        event_fn=event_fn,
        reverse_time=reverse_time,
        odeint_interface=odeint_interface,
        **kwargs,
    )
    return result


def _solve(problem: Problem, backend: Backend, adjoint: Adjoint | None) -> Any:
    solution = solve(backend, problem, adjoint, open_recordings())
    y = problem.as_user_has_it(solution.y)
    return y if solution.event_t is None else (solution.event_t, y)
