"""Build the self-supervised task of predicting by how much an image was turned.

References
----------
Gidaris, Singh & Komodakis (2018), Unsupervised Representation Learning by Predicting Image
Rotations, arXiv:1803.07728; Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

import torch

from ckptlab.train.counter_rng import Counter, Draw, derived_seed, integers
from ckptlab.train.data import Data
from ckptlab.train.tasks.registry import TURNS
from ckptlab.train.tasks.task import Batch, Task


def rotation(data: Data, seed: int) -> Task:
    """Build the task: answer k is a turn by k quarters, counter-clockwise.

    Training images are turned after augmentation: mirrored afterwards, an image turned by 90
    degrees would be its mirror image turned by 270. A turn is drawn for each step and image. Each
    test image has one turn, drawn once, so that evaluations can be compared.
    """
    turn = Draw(seed, "turn", len(TURNS))
    key = derived_seed(seed, "test turn")

    def train(batch: Batch, step: Counter) -> Batch:
        return _turned(batch, turn.of(batch.drawn, step, batch.index))

    def test(batch: Batch) -> Batch:
        return _turned(batch, integers(key, batch.index, len(TURNS)))

    return Task(answers=TURNS, data=data, train=train, test=test, draws=(turn,))


def turned(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn square images by `turns` quarters counter-clockwise, every pixel kept exactly.

    `images` are of shape (batch, channels, side, side), `turns` int64 from 0 to 3.
    """
    batch, channels, side, _ = images.shape
    places = torch.arange(side * side, device=images.device).view(side, side)
    sources = torch.stack([places.rot90(quarter).flatten() for quarter in range(len(TURNS))])
    first = torch.arange(batch, device=images.device)[:, None] * (side * side)
    # One gather of whole pixels, whatever the turns.
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    chosen = pixels.index_select(0, (first + sources.index_select(0, turns)).flatten())
    return chosen.view(batch, side, side, channels).permute(0, 3, 1, 2)


def _turned(batch: Batch, turns: torch.Tensor) -> Batch:
    return Batch(turned(batch.images, turns), turns, batch.index)
