"""The benchmark's modules lie outside the package, where its script finds them."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: nothing installed is hidden by what lies there.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
