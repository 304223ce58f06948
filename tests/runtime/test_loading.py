"""What Julia loads, and when: a program waits for no package that it has no use for."""

from __future__ import annotations

import pytest

from tests.runtime.test_session import run

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

LOADED = """
from pysemi.runtime.session import session
def loaded():
    code = "join(sort([id.name for id in keys(Base.loaded_modules)]), ' ')"
    names = session().evaluate(code).split()
    return [name for name in ("PySemi", "PySemiAdjoints", "SciMLSensitivity", "OrdinaryDiffEq",
                              "OrdinaryDiffEqRosenbrock") if name in names]
"""


def test_packages_are_loaded_when_they_are_needed():
    out = run(
        LOADED
        + """
with torch.no_grad():
    pysemi.odeint(Spiral(), torch.ones(1, 2).double(), torch.tensor([0.0, 1.0]), backend="julia")
gradient(Spiral(), adjoint="discrete")
gradient(Spiral(), adjoint="discrete", method="Vern7")
print(loaded())
for adjoint in ("backsolve", "gauss"):
    gradient(Spiral(), adjoint=adjoint)
print(loaded())
gradient(Spiral(), adjoint="backsolve", adjoint_method="Rodas5P")
print(loaded())
gradient(Spiral(), adjoint="discrete")
"""
    )
    first, adjoints, stiff = out.splitlines()
    assert first == "['PySemi']"
    assert adjoints == "['PySemi', 'PySemiAdjoints', 'SciMLSensitivity']"
    assert "OrdinaryDiffEqRosenbrock" in stiff


def test_gradients_are_those_of_torch_whatever_is_loaded_first():
    out = run(
        """
expected = None
for adjoint in ("discrete", "backsolve", "discrete", "gauss"):
    found = gradient(Spiral(), adjoint=adjoint)
    expected = found if expected is None else expected
    assert torch.allclose(found, expected, rtol=1e-5), (adjoint, found, expected)
print("equal")
"""
    )
    assert out == "equal\n"


def test_adjoints_that_cannot_be_loaded_are_an_error_and_the_rest_goes_on():
    out = run(
        LOADED
        + """
from pysemi.errors import SolveError
before = gradient(Spiral(), adjoint="discrete")
session().evaluate("empty!(LOAD_PATH); 0")
for _ in range(2):
    try:
        gradient(Spiral(), adjoint="backsolve")
    except SolveError as error:
        print("PySemiAdjoints.jl could not be loaded" in str(error))
print(torch.equal(gradient(Spiral(), adjoint="discrete"), before))
"""
    )
    assert out.split() == ["True", "True", "True"]
