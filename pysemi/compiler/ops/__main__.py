"""``python -m pysemi.compiler.ops``: the table of operators as a page of the documentation."""

from __future__ import annotations

import sys

from pysemi.compiler.ops.catalogue import page

sys.stdout.write(page())
