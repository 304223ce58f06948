"""The models of the paper's experiments, as modules to use or to read.

Each builds on torch and pysemi's public interface only. Data and training are
not here (``pysemi.experiments`` has them).
"""

from pysemi.models.neural_cde import ControlledField, MatrixField, NeuralCDE
from pysemi.models.symplectic import SymplecticODENet

__all__ = ["ControlledField", "MatrixField", "NeuralCDE", "SymplecticODENet"]
