"""Build the task of memorising labels that have nothing to do with the images.

References
----------
Zhang et al. (2017), Understanding deep learning requires rethinking generalization,
arXiv:1611.03530; Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

from dataclasses import replace

from ckptlab.train.counter_rng import Counter, derived_seed, integers
from ckptlab.train.data import Data
from ckptlab.train.tasks.task import Batch, Task, unchanged


def random_labels(data: Data, seed: int) -> Task:
    """Build the task.

    Every training image has one label for the whole run, drawn uniformly over the classes, the
    true one among them. Test images keep their true labels: an evaluation shows how far the network
    is from chance on the real task, not how well it has learnt this one; that is the loss and
    accuracy of the updates.
    """
    key = derived_seed(seed, "label")
    classes = len(data.classes)

    def train(batch: Batch, step: Counter) -> Batch:  # noqa: ARG001 - the same at every step
        return replace(batch, labels=integers(key, batch.index, classes))

    return Task(answers=data.classes, data=data, train=train, test=unchanged)
