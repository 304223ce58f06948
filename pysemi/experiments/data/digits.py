"""The 8x8 digits that scikit-learn carries: images without a download.

From "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak, UCI machine
learning repository, 1998), its test part: counts of 0 to 16 black pixels in
blocks of 4x4.
"""

from __future__ import annotations

import torch

from pysemi.experiments.data.image_set import ImageSet

__all__ = ["load_digits"]

LEVELS = 17
_TEST_EVERY = 5
"""Of each digit, every fifth image is for testing."""


def load_digits() -> ImageSet:
    """Return 1,797 images of 8x8 pixels, about a fifth of each digit's to test on."""
    from sklearn import datasets  # an extra; imported where it is needed

    found = datasets.load_digits()
    images = torch.from_numpy(found.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(found.target)
    is_test = torch.zeros(len(images), dtype=torch.bool)
    for digit in range(10):
        of_digit = (labels == digit).nonzero().squeeze(1)
        is_test[of_digit[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return ImageSet(
        train=images[~is_test],
        test=images[is_test],
        levels=LEVELS,
        split=f"{len(images):,} images; of each digit every {_TEST_EVERY}th is for testing",
    )
