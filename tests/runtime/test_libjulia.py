"""Julia code evaluated without juliacall's conversions."""

from __future__ import annotations

import pytest

from pysemi.errors import PysemiError
from pysemi.runtime.libjulia import julia_string
from pysemi.runtime.session import session

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]


def text(code, **options):
    running = session()
    return running.home.run(lambda: running.library.text(code, **options))


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", "2"),
        ("nothing", "nothing"),
        ('""', ""),
        ('"ä\\0b\\n"', "ä\0b\n"),
        ("begin 1; 2 end", "2"),
        ("3 # a comment", "3"),
        ("String(UInt8[0xff, 0x41])", "\ufffdA"),
    ],
)
@pytest.mark.parametrize("locked", [True, False])
def test_the_value_as_text(code, value, locked):
    assert text(code, locked=locked) == value


@pytest.mark.parametrize("locked", [True, False])
def test_what_julia_raises(locked):
    with pytest.raises(PysemiError, match=r"^of no use: ü$"):
        text('error("of no use: ü")', locked=locked)


@pytest.mark.parametrize("code", ["1 +", "1; 2", ")"])
def test_what_julia_cannot_read(code):
    with pytest.raises(PysemiError, match="cannot read"):
        text(code)
    assert text("1") == "1"


@pytest.mark.parametrize("given", ["", 'a "quoted" \\ $(1 + 1)', "zwölf\n"])
def test_a_string_is_itself(given):
    assert text(julia_string(given)) == given
