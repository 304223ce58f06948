"""How a task's metric is shown."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """One kind of metric.

    Attributes
    ----------
    heading : str
        Of its column in a table.
    axis : str
        Of its axis in a picture.
    scale : float
        A table shows the value divided by this.
    digits : int
        After the decimal point, in a table.
    """

    heading: str
    axis: str
    scale: float = 1.0
    digits: int = 3

    def text(self, value: float) -> str:
        """The value as a table shows it."""
        return f"{value / self.scale:.{self.digits}f}"


METRICS = {
    "accuracy": Metric("Accuracy (%)", "test accuracy", 0.01, 1),
    "bits/dim": Metric("Bits/dim", "test bits/dim", 1.0, 4),
    "nats": Metric("NLL (nats)", "test NLL (nats)", 1.0, 3),
    "L2 loss": Metric("Test L² loss (10⁻⁴)", "test L² loss", 1e-4, 3),
}
"""By the name that a task gives, and a run's row holds."""
