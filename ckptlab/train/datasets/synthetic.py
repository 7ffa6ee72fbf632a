"""Draw made-up images of any size: one random pattern a class, and noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.train.counter_rng import derived_seed, integers
from ckptlab.train.datasets.images import Images
from ckptlab.train.datasets.registry import DataShape

_NOISE = 129
_PATTERN = 256 - _NOISE + 1


def describe(image_size: int, channels: int, classes: int, samples: int) -> DataShape:
    """Return the shape that the settings ask for, with a quarter more images for the test."""
    return DataShape(
        channels=channels,
        height=image_size,
        width=image_size,
        classes=classes,
        train=samples,
        test=max(samples // 4, 1),
    )


def load(image_size: int, channels: int, classes: int, samples: int, seed: int) -> Images:
    """Draw training and test images of the same patterns with different noise.

    The same settings give the same bytes everywhere.
    """
    shape = describe(image_size, channels, classes, samples)
    pixels = shape.height * shape.width * shape.channels
    patterns = _draw(derived_seed(seed, "pattern"), shape.classes * pixels, _PATTERN)
    patterns = patterns.reshape(shape.classes, shape.height, shape.width, shape.channels)
    halves = {}
    for half, count in (("train", shape.train), ("test", shape.test)):
        labels = _draw(derived_seed(seed, f"{half} label"), count, shape.classes)
        noise = _draw(derived_seed(seed, f"{half} noise"), count * pixels, _NOISE).astype(np.uint8)
        images = patterns[labels].astype(np.uint8) + noise.reshape(-1, *patterns.shape[1:])
        halves[half] = images, labels
    return Images(
        train=halves["train"][0],
        train_labels=halves["train"][1],
        test=halves["test"][0],
        test_labels=halves["test"][1],
        classes=tuple(str(label) for label in range(shape.classes)),
    )


def _draw(key: int, count: int, high: int) -> npt.NDArray[np.int64]:
    drawn: npt.NDArray[np.int64] = integers(key, torch.arange(count), high).numpy()
    return drawn
