"""Records a vector field and its vector-Jacobian products as one ATen graph.

PyTorch's own autograd engine runs under ``make_fx``: what is recorded is what
torch would do, modules that call ``autograd.grad`` inside included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pysemi.compiler.covariances import Covariances
from pysemi.compiler.evaluation import FlatField, evaluate_field, evaluate_joint
from pysemi.compiler.ops import DECOMPOSITIONS, OPERATORS
from pysemi.compiler.places import Places, place_of
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.errors import PysemiError

__all__ = ["Traced", "trace_field", "trace_joint", "warm_up"]


@dataclass(frozen=True)
class Traced:
    """A function as torch recorded it, free of in-place operations.

    Attributes
    ----------
    module : fx.GraphModule
    tensors : dict of str to Tensor
        Attribute of ``module`` -> tensor that the function read without being given it.
    """

    module: fx.GraphModule
    tensors: dict[str, Tensor]


def trace_joint(
    field: FlatField, t: Tensor, y: Tensor, cotangent: Tensor, params: Sequence[Tensor]
) -> Traced:
    """Record :func:`evaluate_joint`; the results come in its order.

    Raises
    ------
    Untranslatable
        If the field looks at tensor values, draws random numbers, changes tensors
        from outside, or cannot be recorded for another reason.
    """
    return _trace(
        lambda t, y, cotangent: evaluate_joint(field, t, y, cotangent, params, recorded=True),
        (t, y, cotangent),
    )


def trace_field(field: FlatField, t: Tensor, y: Tensor) -> Traced:
    """Record the field alone, without gradients; raises as :func:`trace_joint`."""
    return _trace(lambda t, y: evaluate_field(field, t, y), (t, y))


def warm_up() -> None:
    """Let torch import and prepare what its first trace needs, about a second's work."""
    weight = torch.ones(1, 1, requires_grad=True)
    y = torch.ones(1, 1)
    trace_joint(lambda _t, y: torch.tanh(y @ weight), torch.zeros(()), y, y, (weight,))


def _trace(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Traced:
    # Fresh copies: a field that changes its argument in place must not change the user's.
    inputs = tuple(x.detach().clone() for x in inputs)
    try:
        with (
            Places(),
            _rewriting(),
            _ValuesUnseen(),
            fx_traceback.preserve_node_meta(),
            _one_description(),
        ):
            traced = make_fx(function, _decompositions(), tracing_mode="real")(*inputs)
            _refuse_unrepeatable(traced)
            if any(map(_mutates, traced.graph.nodes)):
                traced = _functional(function, traced, inputs)
    except (Untranslatable, PysemiError):
        raise
    except Exception as error:
        raise Untranslatable(_reason(error)) from error
    traced.graph.eliminate_dead_code()
    for node in traced.graph.nodes:
        if _mutates(node):
            raise Untranslatable(f"{node.target}, which changes a tensor of the function's own")
    return Traced(traced, _captured(traced))


@contextmanager
def _one_description() -> Iterator[None]:
    """Let torch describe all values by one ``FakeTensorMode``.

    It notes each value's shape and dtype in a fake tensor, of a new mode each where it knows of
    none, whose making takes longer than all else: 6.3 s instead of 2.8 for 2,100 operators.
    """
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        yield


@contextmanager
def _rewriting() -> Iterator[None]:
    """Put in other words what torch would look at values for."""
    with _ScalarIndexing(), Covariances():
        yield


def _functional(
    function: Callable[..., Any], traced: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> fx.GraphModule:
    """The same without operators that change a tensor."""
    if any(map(_aliases_unseen, traced.graph.nodes)):
        traced = make_fx(function, tracing_mode="real")(*inputs)
    # Only what is computed from arguments becomes functional: so the tensors that the
    # function read become some too, and attributes again afterwards.
    read = _captured(traced)
    values = [tensor.detach().clone() for tensor in read.values()]

    def run(*given: Tensor) -> Any:
        own, rest = given[: len(inputs)], given[len(inputs) :]
        return _Reader(traced, dict(zip(read, rest, strict=True))).run(*own)

    again = make_fx(torch.func.functionalize(run), _decompositions())(*inputs, *values)
    places = [node for node in again.graph.nodes if node.op == "placeholder"]
    for place, (name, tensor) in zip(places[len(inputs) :], read.items(), strict=True):
        attribute = f"read_{name}"
        setattr(again, attribute, tensor)
        with again.graph.inserting_before(place):
            place.replace_all_uses_with(again.graph.create_node("get_attr", attribute))
        again.graph.erase_node(place)
    return again


class _Reader(fx.Interpreter):
    """Runs a graph with other tensors for its attributes.

    What is taken apart only now may have other strides than it had when views of it were recorded.
    """

    def __init__(self, module: fx.GraphModule, tensors: dict[str, Tensor]) -> None:
        super().__init__(module)
        self._tensors = tensors

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        known = self._tensors.get(target)
        return super().get_attr(target, args, kwargs) if known is None else known

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.view.default:
            target = torch.ops.aten.reshape.default
        return super().call_function(target, args, kwargs)


def _aliases_unseen(node: fx.Node) -> bool:
    """Whether it is a view that functionalisation knows nothing of."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.name.startswith("aten::"):
        return False
    return any(result.alias_info is not None for result in schema.returns)


def _captured(traced: fx.GraphModule) -> dict[str, Tensor]:
    tensors = {}
    for node in traced.graph.nodes:
        if node.op != "get_attr" or all(_makes_literal(user) for user in node.users):
            continue
        tensors[node.target] = getattr(traced, node.target)
    return tensors


def _makes_literal(user: fx.Node) -> bool:
    # torch.tensor(...) written in the forward: new at each call, and the same.
    return user.target in (
        torch.ops.aten.lift_fresh_copy.default,
        torch.ops.aten.lift_fresh.default,
    )


@cache
def _decompositions() -> dict[Any, Any]:
    """All that torch can take apart, less what the compiler has an entry for.

    In-place operators stay whole, for functionalisation to remove.
    """
    from torch._decomp import core_aten_decompositions, decomposition_table

    table = {**decomposition_table, **core_aten_decompositions(), **DECOMPOSITIONS}
    return {
        overload: function
        for overload, function in table.items()
        if overload not in OPERATORS and not _is_mutable(overload)
    }


def _is_mutable(overload: Any) -> bool:
    schema = getattr(overload, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _mutates(node: fx.Node) -> bool:
    return _is_mutable(node.target)


def _refuse_unrepeatable(traced: fx.GraphModule) -> None:
    """Refuse what would be another graph, or other numbers, the next time."""
    refused: dict[str, str] = {}  # with the place of the first
    for node in traced.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            refused.setdefault(f"{node.target}, which draws random numbers", str(place_of(node)))
        # Integer indices have results of a known shape; masks are refused by name.
        elif torch.Tag.dynamic_output_shape in tags and node.target not in OPERATORS:
            refused.setdefault(
                f"{node.target}, whose result has no fixed shape", str(place_of(node))
            )
    if refused:
        raise Untranslatable("; ".join(what + where for what, where in refused.items()))


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    seen = isinstance(error, _ValueSeen) or "get value out of a tracing tensor" in str(error)
    if seen or "data-dependent" in str(error):
        return "Python code that looks at a tensor's value" + _user_line(error)
    return f"{type(error).__name__}: {text}{_user_line(error)}"


def _user_line(error: BaseException) -> str:
    """The last line of the user's own code that ``error`` passed through."""
    import traceback

    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in ("/torch/", "/pysemi/compiler/", "<"))
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({last.filename}:{last.lineno}: {last.line})"


class _ScalarIndexing(TorchFunctionMode):
    """Turns ``x[..., i, :]``, i an integer tensor of shape (), into ``index_select``.

    Torch would ask for the number in i, and the trace would be of that number.
    torchcde's interpolations index so with the interval that t lies in.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            x, index = args
            parts = index if isinstance(index, tuple) else (index,)
            if any(map(_is_scalar_index, parts)) and all(map(_is_basic, parts)):
                return _select(x, parts)
        return func(*args, **(kwargs or {}))


class _ValueSeen(Exception):
    """Python code asked for the numbers in a tensor."""


class _ValuesUnseen(TorchFunctionMode):
    """Refuses to hand a tensor's memory to NumPy or to Python.

    Torch does not see what they do with it, and the trace would keep today's result.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _EXPOSING or (func in _COPYING and any(map(_lists_tensors, args))):
            raise _ValueSeen(func.__name__)
        return func(*args, **(kwargs or {}))


_EXPOSING = frozenset(
    {torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.tolist, torch.Tensor.__dlpack__}
)

_COPYING = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor})
"""They make a tensor of the numbers that lists hold."""


def _lists_tensors(data: Any) -> bool:
    return isinstance(data, (list, tuple)) and any(
        isinstance(x, Tensor) or _lists_tensors(x) for x in data
    )


def _is_scalar_index(part: Any) -> bool:
    return (
        isinstance(part, Tensor)
        and part.ndim == 0
        and part.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
    )


def _is_basic(part: Any) -> bool:
    return (
        part is None
        or part is Ellipsis
        or (isinstance(part, (int, slice)) and not isinstance(part, bool))
        or _is_scalar_index(part)
    )


def _select(x: Tensor, parts: tuple[Any, ...]) -> Tensor:
    used = sum(part is not None and part is not Ellipsis for part in parts)
    plain: list[Any] = []
    places: list[tuple[int, Tensor]] = []  # dimension of the plain result, index into it
    dim = 0
    for part in parts:
        if _is_scalar_index(part):
            places.append((dim, part))
            plain.append(slice(None))
            dim += 1
            continue
        plain.append(part)
        if part is Ellipsis:
            dim += x.ndim - used
        elif not isinstance(part, int):
            dim += 1
    x = x[tuple(plain)]
    for dim, index in reversed(places):
        index = index.to(torch.int64)
        index = torch.where(index < 0, index + x.shape[dim], index)
        x = x.index_select(dim, index.reshape(1)).squeeze(dim)
    return x
