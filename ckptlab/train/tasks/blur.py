"""Build the task of predicting the label of a blurred image.

References
----------
Achille, Rovere & Soatto (2019), Critical Learning Periods in Deep Networks, arXiv:1711.08856;
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ckptlab.train.counter_rng import Counter
from ckptlab.train.data import Data
from ckptlab.train.tasks.task import Batch, Task, unchanged


def blur(data: Data, factor: int) -> Task:
    """Build the task: training images are blurred by `factor`, test images stay sharp.

    Images are blurred after augmentation, as in the authors' framework, and normalised as the
    sharp ones are.
    """
    device = data.train.device
    rows = blur_matrix(data.shape.height, factor).to(device)
    columns = blur_matrix(data.shape.width, factor).to(device)

    def train(batch: Batch, step: Counter) -> Batch:  # noqa: ARG001 - the same at every step
        return replace(batch, images=blurred(batch.images, rows, columns))

    return Task(answers=data.classes, data=data, train=train, test=unchanged)


def blur_matrix(side: int, factor: int) -> torch.Tensor:
    """Return the (side, side) matrix that scales a row of pixels down by `factor` and up again.

    The studies do not say how they scale. Chosen here: bilinear between pixel centres both ways; on
    the way down with a triangle filter as wide as two new pixels (antialiased, as in Pillow, which
    the authors' framework used, but without its rounding to bytes); sizes rounded down. Each row
    sums to 1. torch's own antialiased `interpolate` goes wrong on a CPU where one pixel is left of
    a row (2.14).
    """
    small = side // factor
    scale = side / small
    pixels = torch.arange(side, dtype=torch.float64) + 0.5
    few = torch.arange(small, dtype=torch.float64) + 0.5
    down = (1 - (pixels - scale * few[:, None]).abs() / scale).clamp(min=0)
    down /= down.sum(1, keepdim=True)
    # Beyond the outermost centres there is nothing to interpolate with.
    places = (pixels / scale).clamp(0.5, small - 0.5)
    up = (1 - (few - places[:, None]).abs()).clamp(min=0)
    return (up @ down).to(torch.float32)


def blurred(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Blur images of shape (batch, channels, height, width) by the `blur_matrix` of each side.

    The result lies in memory as `images` do.
    """
    # Products of matrices come out rows fastest; convolutions go by the strides they are given.
    return torch.empty_like(images).copy_(rows @ images @ columns.T)
