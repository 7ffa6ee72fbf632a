"""What a task is to the training step.

Imports data only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

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
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """What the network sees and must answer.

    Parameters
    ----------
    classes : int
        Number of answers.
    data : Data
        With training images and labels as the task wants them.
    train : callable
        ``f(batch, step)`` makes the batch of an update, after augmentation.
    test : callable
        ``f(batch)`` makes a batch of an evaluation.
    """

    classes: int
    data: Data
    train: Callable[[Batch, int], Batch]
    test: Callable[[Batch], Batch]
