"""The task of predicting the label.

Imports data, sections and task.
"""

from __future__ import annotations

from ckptlab.train.data import Data
from ckptlab.train.sections import TaskConfig
from ckptlab.train.seeds import Seeds
from ckptlab.train.tasks.task import Batch, Task


def supervised(config: TaskConfig, data: Data, seeds: Seeds) -> Task:  # noqa: ARG001
    """Build the task.

    Parameters
    ----------
    config, seeds : object
        Unused; every task is built alike.
    data : Data
        The data set.

    Returns
    -------
    Task
        That leaves images and labels as they are.
    """
    return Task(classes=data.shape.classes, data=data, train=_as_it_is, test=_as_it_is)


def _as_it_is(batch: Batch, step: int = 0) -> Batch:  # noqa: ARG001 - every task is called alike
    return batch
