"""Read the 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ckptlab.train.datasets.images import Images

# Parsing the file is much of what a short training takes, and a worker does many.
_read = cache(load_digits)


def load() -> Images:
    """Read the digits, split 80/20 with the same share of each digit (seed 0).

    Returns
    -------
    Images
        1,437 training and 360 test images of 8×8 pixels.
    """
    digits = _read()
    # Ink is counted from 0 to 16.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    return Images(
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        classes=tuple(str(digit) for digit in range(10)),
    )
