"""Julia code evaluated by libjulia itself, in a Julia that runs in this process.

juliacall's ``seval`` turns every result into a Python object, by machinery that Julia compiles
in each process anew: half a second for the first result. What pysemi asks for while it starts is
text.
"""

from __future__ import annotations

import ctypes
from typing import Any

from pysemi.errors import PysemiError

__all__ = ["LibJulia", "julia_string"]


class LibJulia:
    """libjulia's way to evaluate code; for the thread that Julia lives on.

    Parameters
    ----------
    library : ctypes.CDLL
        libjulia.

    Examples
    --------
    >>> LibJulia(library).text("1 + 1")  # doctest: +SKIP
    '2'
    """

    def __init__(self, library: Any) -> None:
        # Functions of our own: others may have given juliacall's other types.
        name = ("jl_eval_string", library)
        self._evaluate = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(name)
        self._evaluate_unlocked = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(name)
        self._characters = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(
            ("jl_string_ptr", library)
        )

    def text(self, code: str, *, locked: bool = True) -> str:
        """Evaluate ``code``, of one expression, in Main and return the value as ``string`` has it.

        Parameters
        ----------
        code : str
        locked : bool
            Whether Python's lock is held meanwhile; without it the code must not use Python.

        Raises
        ------
        PysemiError
            With Julia's words, if Julia raises.
        """
        # Letters and digits alone, as a C string has no zero bytes; the first says which it is.
        evaluate = self._evaluate if locked else self._evaluate_unlocked
        found = evaluate(
            f"""
            try
                "v" * bytes2hex(codeunits(string({code}
                )))
            catch error
                "e" * bytes2hex(codeunits(sprint(showerror, error)))
            end
            """.encode()
        )
        if found is None:  # it cannot be parsed, and nothing was evaluated
            raise PysemiError(f"Julia cannot read {code!r}")
        # Nothing of Julia's runs before it is copied, so that it is not collected.
        answer = self._characters(found)
        assert answer is not None
        value = bytes.fromhex(answer[1:].decode()).decode(errors="replace")
        if answer[:1] == b"e":
            raise PysemiError(value)
        return value


def julia_string(text: str) -> str:
    """``text`` as a literal of Julia's."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
