"""Made-up images of any size: one random pattern a class, and noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.train.counter_rng import derived_seed, integers
from ckptlab.train.datasets.images import Images
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.sections import DataConfig

_NOISE = 129
_PATTERN = 256 - _NOISE + 1


def describe(config: DataConfig) -> DataShape:
    """Return the shape that the settings ask for.

    Parameters
    ----------
    config : DataConfig
        Its ``image_size`` (32), ``channels`` (3), ``classes`` (10) and ``samples`` (2048).

    Returns
    -------
    DataShape
        With a quarter more images for the test.
    """
    size = config.image_size or 32
    samples = config.samples or 2048
    return DataShape(
        channels=config.channels or 3,
        height=size,
        width=size,
        classes=config.classes or 10,
        train=samples,
        test=max(samples // 4, 1),
    )


def load(config: DataConfig) -> Images:
    """Draw the images; the same settings give the same bytes everywhere.

    Parameters
    ----------
    config : DataConfig
        As for `describe`, and ``seed`` (0).

    Returns
    -------
    Images
        Training and test images of the same patterns with different noise.
    """
    shape = describe(config)
    seed = config.seed or 0
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
