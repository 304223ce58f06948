"""The errors themselves."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from pysemi import errors
from pysemi.errors import ArgumentError, PysemiError, StepBudgetError

SPECIAL = {
    ArgumentError: ArgumentError("rtol", "-1 is negative"),
    **{
        kind: kind("too far", direction="backward", t=0.5, dt=1e-9, error_norm=2.0, trajectory=3)
        for kind in (errors.SolveError, *errors.SolveError.__subclasses__())
    },
}
KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PysemiError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("carry", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy])
def test_an_error_reaches_another_process_whole(kind, carry):
    error = SPECIAL.get(kind) or kind("what was wrong")
    found = carry(error)
    assert type(found) is kind
    assert str(found) == str(error)
    assert vars(found) == vars(error)


def test_what_a_failed_solve_knows_goes_with_it():
    found = pickle.loads(pickle.dumps(SPECIAL[StepBudgetError]))
    assert (found.direction, found.t, found.trajectory) == ("backward", 0.5, 3)
