"""Build the task of predicting by how much a blurred image was turned.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

from dataclasses import replace

from ckptlab.train.counter_rng import Counter
from ckptlab.train.data import Data
from ckptlab.train.tasks.blur import blur
from ckptlab.train.tasks.rotation import rotation
from ckptlab.train.tasks.task import Batch, Task


def blur_rotation(data: Data, seed: int, factor: int) -> Task:
    """Build the task: training images are blurred, then turned; test images only turned."""
    blurring, turning = blur(data, factor), rotation(data, seed)

    def train(batch: Batch, step: Counter) -> Batch:
        return turning.train(blurring.train(batch, step), step)

    return replace(turning, train=train)
