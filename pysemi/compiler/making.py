"""Compiles a function: traced by torch, translated, lowered to a tape.

Imported where something is compiled: with it comes what torch imports to trace, more than a
second's work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pysemi.compiler.compilation import Compilation, Subject, versions
from pysemi.compiler.graph import Node
from pysemi.compiler.inventory import Inventory
from pysemi.compiler.lower import Place, Results, lower
from pysemi.compiler.records import split
from pysemi.compiler.tape import Role, Tape
from pysemi.compiler.trace import Traced, trace_field, trace_joint
from pysemi.compiler.translate import translate
from pysemi.compiler.untranslatable import Untranslatable

__all__ = ["make"]


def make(subject: Subject, t: Tensor, y: Tensor, inventory: Inventory) -> Compilation:
    """Compile ``subject``, of which ``inventory`` was taken, at a point.

    Raises
    ------
    Untranslatable
        Saying why it cannot be compiled.
    """
    began = time.perf_counter()
    before = versions(inventory)
    try:
        traced = _trace(subject, t, y)
    except Untranslatable:
        subject.check_unchanged(inventory, before)  # names more than an operator
        raise
    subject.check_unchanged(inventory, before)
    tape, sources = _lower(subject, traced, y, inventory)
    places = {id(tensor): index for index, tensor in enumerate(inventory.tensors)}
    param_sources = tuple(places[id(param)] for param in subject.params or ())
    return Compilation(subject.kind, tape, sources, param_sources, time.perf_counter() - began)


def _trace(subject: Subject, t: Tensor, y: Tensor) -> Traced:
    if subject.params is None:
        return trace_field(subject.flat, t, y)
    return trace_joint(subject.flat, t, y, torch.ones_like(y), subject.params)


def _lower(
    subject: Subject, traced: Traced, y: Tensor, inventory: Inventory
) -> tuple[Tape, tuple[int | Tensor, ...]]:
    params = subject.params or ()
    places, packed_size = _places(params)
    names, captured = _name_captured(traced, params, inventory)
    places |= {f"tensor{index}": Place("tensor", 0, index) for index in range(len(captured))}
    bars = [f"param_bar{index}" for index in range(len(params))]
    joint = subject.params is not None
    inputs = ["t", "y", "cotangent"] if joint else ["t", "y"]
    results = ["dy", "y_bar", *bars] if joint else ["dy"]
    graph = translate(traced.module, inputs, results, names)
    programs = {"field": Results(graph, ["dy"])}
    arrays: dict[str, Node] = {}
    if joint:
        parts = split(graph, bars)
        arrays = parts.kept | parts.operands
        places |= {name: Place("record") for name in parts.kept}
        places |= {name: Place("operand") for name in parts.operands}
        programs |= {
            "pullback": Results(graph, ["dy", "y_bar"]),
            "joint": Results(graph, results),
            "record": Results(parts.record, ["dy", *parts.kept]),
            "reverse": Results(parts.reverse, ["y_bar", *parts.operands], added=bars),
            "gather": Results(parts.gather, [], added=bars),
        }
    # A role that no program has a use for has one element.
    used = {places[name].role for name in (*inputs, *results)}
    size = prod(y.shape)
    sizes: dict[Role, int] = {
        "t": 1,
        "y": size,
        "cotangent": size if "cotangent" in used else 1,
        "params": packed_size,
        "dy": prod(graph.outputs["dy"].shape),
        "y_bar": size if "y_bar" in used else 1,
        "params_bar": packed_size,
    }
    tape = lower(programs, places, sizes, y.dtype, arrays)
    # A tensor that no program needs has no buffer; those that have are in order of use.
    return tape, tuple(captured[buffer.place] for buffer in tape.of_role("tensor"))


def _places(params: Sequence[Tensor]) -> tuple[dict[str, Place], int]:
    """Where inputs and results lie that are no captured tensors, and the length of packed θ."""
    places = {role: Place(role) for role in ("t", "y", "cotangent", "dy", "y_bar")}
    offset = 0
    for index, param in enumerate(params):
        places[f"param{index}"] = Place("params", offset)
        places[f"param_bar{index}"] = Place("params_bar", offset)
        offset += param.numel()
    # SciMLSensitivity wants at least one parameter; a vector of none gets a silent one.
    return places, max(offset, 1)


def _name_captured(
    traced: Traced, params: Sequence[Tensor], inventory: Inventory
) -> tuple[dict[str, str], list[int | Tensor]]:
    """Attribute of the traced module -> name of an input; and the tensors that are not packed."""
    known = {id(tensor): index for index, tensor in enumerate(inventory.tensors)}
    packed = {id(param): index for index, param in enumerate(params)}
    names: dict[str, str] = {}
    captured: list[int | Tensor] = []
    for attribute, tensor in traced.tensors.items():
        if id(tensor) in packed:
            names[attribute] = f"param{packed[id(tensor)]}"
            continue
        if tensor.device.type != "cpu":
            raise Untranslatable(f"a tensor on {tensor.device}")
        names[attribute] = f"tensor{len(captured)}"
        captured.append(known.get(id(tensor), tensor))
    return names, captured
