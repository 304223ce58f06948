"""Whether the backends agree: models to solve on both, and the measurement.

``models.py`` holds the models, ``measure.py`` one solve with its gradient, ``compare.py`` two
of them side by side, with a reference and the bounds they are held to. Nothing here prints.
"""

from pysemi.comparison.compare import Comparison, Differences, compare
from pysemi.comparison.measure import Gradient, Measurement, Setting
from pysemi.comparison.models import MODELS, Case, build

__all__ = [
    "MODELS",
    "Case",
    "Comparison",
    "Differences",
    "Gradient",
    "Measurement",
    "Setting",
    "build",
    "compare",
]
