"""Take a part of the images."""

from __future__ import annotations

import numpy as np

from ckptlab.train.data_root import named_root
from ckptlab.train.datasets.imagefolder import load
from ckptlab.train.datasets.images import Images


def images(each: int = 1000, image_size: int = 16) -> Images:
    """Images of ``--data-root``: of the training images the first `each` of a class."""
    whole = load(named_root(), image_size, 3)
    first = [np.flatnonzero(whole.train_labels == k)[:each] for k in range(len(whole.classes))]
    chosen = np.concatenate(first)
    return Images(
        train=whole.train[chosen],
        train_labels=whole.train_labels[chosen],
        test=whole.test,
        test_labels=whole.test_labels,
        classes=whole.classes,
    )
