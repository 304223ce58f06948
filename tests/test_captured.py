"""Leaves that a result depends on, other than through what is known."""

from __future__ import annotations

import torch

from pysemi.captured import ancestors, uncovered_leaves

A, B, C = (torch.ones(i + 1, requires_grad=True) for i in range(3))


def test_known_leaves_are_covered():
    assert uncovered_leaves((A.sum() * B.sum()), [A, B]) == []


def test_an_unknown_leaf_is_found_once():
    found = uncovered_leaves(A.sum() * B.sum() + B.sum(), [A])
    assert [leaf is B for leaf in found] == [True]


def test_the_search_stops_at_a_known_intermediate():
    middle = A.exp()
    assert uncovered_leaves(middle.sum() * B.sum(), [middle, B]) == []
    assert uncovered_leaves(middle.sum() * B.sum(), [B])[0] is A


def test_an_unknown_path_around_a_known_intermediate_is_found():
    middle = A.exp()
    assert uncovered_leaves(middle.sum() + A.sum(), [middle])[0] is A


def test_a_result_without_a_graph_depends_on_nothing():
    assert uncovered_leaves(torch.ones(1), [C]) == []


def test_ancestors_are_what_a_tensor_was_computed_from():
    weight = torch.ones(2, requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    hidden = torch.tanh(weight)
    result = 2 * hidden
    same_node = torch.stack([hidden, hidden]).unbind()
    assert ancestors(result, (weight, bias, hidden, result)) == [hidden, weight]
    assert ancestors(weight, (weight, bias)) == []
    assert ancestors(same_node[0], same_node) == []
