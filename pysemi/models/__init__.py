"""The models of the paper's experiments, as modules to use or to read.

Each builds on torch and pysemi's public interface only. Data and training are
not here (``pysemi.experiments`` has them).
"""

from pysemi.models.continuous_flow import ContinuousFlow
from pysemi.models.flow_fields import FlowField, ImageField, PointField
from pysemi.models.image_flow import ImageFlow
from pysemi.models.neural_cde import ControlledField, MatrixField, NeuralCDE
from pysemi.models.symplectic import SymplecticODENet

__all__ = [
    "ContinuousFlow",
    "ControlledField",
    "FlowField",
    "ImageField",
    "ImageFlow",
    "MatrixField",
    "NeuralCDE",
    "PointField",
    "SymplecticODENet",
]
