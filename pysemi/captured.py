"""Tensors that a vector field uses without anyone having said so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import Node

__all__ = ["ancestors", "uncovered_leaves"]


def uncovered_leaves(output: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
    """Leaf tensors that ``output`` depends on other than through ``known``.

    The adjoint method gives gradients to y0 and to the tensors it was told of.
    A parameter captured by a closure, or an encoder whose output the vector
    field reads, would silently get none.

    Parameters
    ----------
    output : Tensor
        With its autograd graph.
    known : sequence of Tensor
        Leaves or intermediate results where the search stops.

    Returns
    -------
    list of Tensor
        Each leaf once, in the order in which the search met them.
    """
    covered = {id(x) for x in known}
    leaves: dict[int, Tensor] = {}
    for node in _graph(output.grad_fn, {x.grad_fn for x in known if x.grad_fn is not None}):
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in covered:
            leaves[id(leaf)] = leaf
    return list(leaves.values())


def ancestors(result: Tensor, candidates: Sequence[Tensor]) -> list[Tensor]:
    """Those of ``candidates``, other than ``result`` itself, that ``result`` was computed from."""
    results = {x.grad_fn: x for x in candidates if x.grad_fn is not None}
    leaves = {id(x): x for x in candidates if x.grad_fn is None}
    found: dict[int, Tensor] = {}
    for node in _graph(result.grad_fn, set()):
        leaf = getattr(node, "variable", None)
        met = results.get(node) if leaf is None else leaves.get(id(leaf))
        if met is not None and node is not result.grad_fn:
            found[id(met)] = met
    return list(found.values())


def _graph(start: Node | None, without: set[Node]) -> Iterator[Node]:
    """The nodes of an autograd graph, each once; none of ``without``, nor what lies behind them."""
    # The nodes themselves are kept, since their Python objects, which are compared
    # by identity, live only as long as someone holds them.
    seen = set(without)
    pending = [start]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        pending.extend(following for following, _ in node.next_functions)
