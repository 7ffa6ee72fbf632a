"""Define what a task gives the training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ckptlab.train.counter_rng import Counter, Draw, Drawn
from ckptlab.train.data import Data


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one forward pass works on.

    Parameters
    ----------
    images : Tensor of float32, shape (batch, channels, height, width)
        Augmented and normalised.
    labels : Tensor of int64, shape (batch,)
        The answers.
    index : Tensor of int64, shape (batch,)
        Which samples they are.
    drawn : mapping of Draw to Tensor
        What was drawn before for these samples and this step.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    drawn: Drawn = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """What the network sees and must answer.

    Parameters
    ----------
    answers : tuple of str
        Names of the answers.
    data : Data
        Images and labels before the task changes them.
    train : callable
        ``f(batch, step)`` makes the batch of an update, after augmentation. It depends on the
        seeds, the step and the samples alone, so that any step can be replayed. The step may be a
        number on the device.
    test : callable
        ``f(batch)`` makes a batch of an evaluation; the same at every step.
    stages : callable or None
        ``f(step)`` returns the task that takes its place in the update from a step, if it is not
        the same throughout.
    draws : tuple of Draw
        What `train` draws for each sample, so that whole epochs can be drawn at once.
    """

    answers: tuple[str, ...]
    data: Data
    train: Callable[[Batch, Counter], Batch]
    test: Callable[[Batch], Batch]
    stages: Callable[[int], Task] | None = None
    draws: tuple[Draw, ...] = ()

    def at(self, step: int) -> Task:
        """Return the task of the update from a step."""
        return self if self.stages is None else self.stages(step)

    @property
    def classes(self) -> int:
        """Number of answers."""
        return len(self.answers)


def unchanged(batch: Batch, step: Counter = 0) -> Batch:  # noqa: ARG001 - every task is called alike
    """Return the batch as it is."""
    return batch
