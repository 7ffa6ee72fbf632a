"""The task of predicting by how much a blurred image was turned.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

from dataclasses import replace

from ckptlab.train.counter_rng import Counter
from ckptlab.train.data import Data
from ckptlab.train.sections import TaskChoice
from ckptlab.train.seeds import Seeds
from ckptlab.train.tasks.blur import blur
from ckptlab.train.tasks.rotation import rotation
from ckptlab.train.tasks.task import Batch, Task


def blur_rotation(choice: TaskChoice, data: Data, seeds: Seeds) -> Task:
    """Build the task: training images are blurred, then turned; test images only turned.

    Parameters
    ----------
    choice : TaskChoice
        Its ``factor``.
    data : Data
        The data set, of square images.
    seeds : Seeds
        Its ``task``; the turns are those of the task rotation.

    Returns
    -------
    Task
        Answer k is a turn by k quarters, counter-clockwise.
    """
    blurring, turning = blur(choice, data, seeds), rotation(choice, data, seeds)

    def train(batch: Batch, step: Counter) -> Batch:
        return turning.train(blurring.train(batch, step), step)

    return replace(turning, train=train)
