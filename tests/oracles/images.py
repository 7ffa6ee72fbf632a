"""Oracles of the tasks: what they do to images, by Pillow and NumPy one image at a time."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.oracles.plain import FRANKLE, oracle

Array = np.ndarray


@oracle("task", "supervised", "exact", "none needed")
def supervised(image: Array, label: int) -> tuple[Array, int]:
    return image, label


@oracle("task", "random-labels", "images exact; labels uniform (χ², p > 1e-3)", FRANKLE)
def random_labels(image: Array, classes: int) -> tuple[Array, Array]:
    """The image, and the chances of each label."""
    return image, np.full(classes, 1 / classes)


@oracle("task", "rotation", "exact; turns uniform (χ², p > 1e-3)", "arXiv:1803.07728")
def rotation(image: Array, turn: int) -> Array:
    """Turn (channels, side, side) counter-clockwise by quarters."""
    return np.stack([np.rot90(channel, turn) for channel in image])


@oracle("task", "blur", "absolute 1e-5", "arXiv:1711.08856; Pillow's bilinear resize")
def blur(image: Array, factor: int) -> Array:
    """Scale down and up again by Pillow, in floating point."""
    side = image.shape[-1]
    found = []
    for channel in image:
        small = Image.fromarray(channel.astype(np.float32)).resize(
            (side // factor, side // factor), Image.Resampling.BILINEAR
        )
        found.append(np.asarray(small.resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(found)


@oracle("task", "blur-rotation", "absolute 1e-5", FRANKLE)
def blur_rotation(image: Array, factor: int, turn: int) -> Array:
    return rotation(blur(image, factor), turn)
