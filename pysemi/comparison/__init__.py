"""Whether the backends agree: models to solve on both, and the measurement.

``models.py`` holds the models, ``measure.py`` one solve with its gradient (``sensitivities.py``
one of a stiff model without Julia), ``compare.py`` two of them side by side, with a reference
and the bounds they are held to. Nothing here prints.
"""

from pysemi.comparison.compare import Comparison, Differences, compare
from pysemi.comparison.gradient import Gradient, Measurement
from pysemi.comparison.measure import Setting
from pysemi.comparison.models import MODELS, STIFF_MODELS, Case, build

__all__ = [
    "MODELS",
    "STIFF_MODELS",
    "Case",
    "Comparison",
    "Differences",
    "Gradient",
    "Measurement",
    "Setting",
    "build",
    "compare",
]
