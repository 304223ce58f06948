"""The ``pysemi`` command: one module a command group, no logic of its own.

Each module turns arguments into calls of the package and results into text.
Anything worth calling from Python lives outside this folder.
"""

from pysemi.cli.app import main

__all__ = ["main"]
