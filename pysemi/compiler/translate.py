"""From the graph that torch traced to the compiler's own."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map

from pysemi.compiler.builder import Builder
from pysemi.compiler.graph import Graph, Literal, View
from pysemi.compiler.ops import OPERATORS
from pysemi.compiler.ops.indexing import constant_value
from pysemi.compiler.places import place_of
from pysemi.compiler.scalar import JULIA_TYPES
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["translate"]


def translate(
    traced: fx.GraphModule,
    inputs: Sequence[str],
    outputs: Sequence[str],
    captured: Mapping[str, str],
) -> Graph:
    """Describe a functional ATen graph to a builder.

    Parameters
    ----------
    traced : fx.GraphModule
        Its placeholders become the inputs named by ``inputs``, in order.
    outputs : sequence of str
        Names of its results; one that is None (no gradient) is left out.
    captured : mapping
        Attribute of ``traced`` -> name of the input that it becomes. Attributes that
        are not in it are constants.

    Raises
    ------
    Untranslatable
        Naming all the operators that have no entry.
    """
    builder = Builder()
    values: dict[fx.Node, Any] = {}
    refused: dict[str, str] = {}  # in order, each once, with the place of the first
    names = iter(inputs)
    for node in traced.graph.nodes:
        builder.origin = place_of(node).module
        if node.op == "placeholder":
            values[node] = _input(builder, next(names), node.meta["val"])
        elif node.op == "get_attr":
            tensor = getattr(traced, node.target)
            name = captured.get(node.target)
            if name is None:
                values[node] = builder.constant(tensor)
            else:
                values[node] = _input(builder, name, tensor)
        elif node.op == "call_function":
            try:
                values[node] = _call(builder, node, values)
            except Untranslatable as reason:
                refused.setdefault(reason.what, str(place_of(node)))
                values[node] = _UNKNOWN
        elif node.op == "output" and not refused:
            for name, result in zip(outputs, node.args[0], strict=True):
                if result is not None:
                    builder.output(name, values[result])
    if refused:
        raise Untranslatable("; ".join(what + where for what, where in refused.items()))
    return builder.graph


_UNKNOWN = object()
"""The result of an operator that was refused, and of what depends on it."""


def _check_types(node: fx.Node) -> None:
    for value in tree_flatten(node.meta.get("val"))[0]:
        if isinstance(value, Tensor) and value.dtype not in JULIA_TYPES:
            raise Untranslatable(f"{node.target} with {value.dtype}")


def _check_shapes(node: fx.Node, result: Any) -> None:
    """That an entry describes what torch computed; an entry's mistake must not become a result."""
    values = node.meta.get("val")
    many = isinstance(values, (tuple, list))
    pairs = zip(values, result, strict=True) if many else [(values, result)]  # type: ignore[arg-type]
    for value, operand in pairs:
        if isinstance(value, Tensor) and tuple(value.shape) != tuple(operand.shape):
            shapes = f"{list(operand.shape)} for {list(value.shape)}"
            raise Untranslatable(f"{node.target}, whose entry gives another shape, {shapes}")


def _input(builder: Builder, name: str, like: Tensor) -> View:
    return builder.input(name, like.shape, like.dtype)


def _call(builder: Builder, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    given: Any = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    args, kwargs = given
    if any(x is _UNKNOWN for x in tree_flatten((args, kwargs))[0]):
        if node.target in OPERATORS or node.target is python_operator.getitem:
            return _UNKNOWN
        raise Untranslatable(str(node.target))
    if node.target is python_operator.getitem:
        return args[0][args[1]]
    entry = OPERATORS.get(node.target)
    folded = _fold(builder, node, args, kwargs)
    if folded is not None:
        return folded
    if entry is None:
        raise Untranslatable(str(node.target))
    _check_types(node)
    result = entry(builder, node.meta.get("val"), *args, **kwargs)
    _check_shapes(node, result)
    return result


def _fold(builder: Builder, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Run the operator now if its result can never change."""
    leaves = tree_flatten((args, kwargs))[0]
    operands = [x for x in leaves if isinstance(x, (View, Literal))]
    if not all(isinstance(x, Literal) or x.source.kind == "constant" for x in operands):
        return None
    if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return None
    args, kwargs = tree_map(_as_tensor, (args, kwargs))
    result = node.target(*args, **{**kwargs, **_on_cpu(kwargs)})  # type: ignore[operator]
    return tree_map(lambda x: builder.constant(x) if isinstance(x, Tensor) else x, result)


def _on_cpu(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("cpu")} if "device" in kwargs else {}


def _as_tensor(x: Any) -> Any:
    # As torch had it when it was traced; views of it may follow.
    return constant_value(x).contiguous() if isinstance(x, (View, Literal)) else x
