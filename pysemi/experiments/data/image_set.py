"""Images without labels, split into training and test set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pysemi.experiments.data.labelled_series import spread

__all__ = ["ImageSet"]


@dataclass(frozen=True)
class ImageSet:
    """A density to be learnt from images.

    Attributes
    ----------
    train, test : Tensor
        Shape ``(images, channels, height, width)``, uint8.
    levels : int
        Values a pixel can have: 0 to ``levels - 1``.
    split : str
        How training and test set were separated, in words.
    """

    train: Tensor
    test: Tensor
    levels: int
    split: str

    def limited(self, train: int | None, test: int | None) -> ImageSet:
        """At most so many images of each set, spread evenly over it."""
        return replace(self, train=spread(self.train, train), test=spread(self.test, test))
