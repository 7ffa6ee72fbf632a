"""Crop and flip a whole batch at random, and normalise it, on the device the images lie on.

The draws of a sample depend on (seed, step, sample) alone, not on its place in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from ckptlab.train.counter_rng import Counter, Draw, Drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random changes of training images.

    `flip` mirrors half of them; `crop` pads with black by this many pixels and cuts the original
    size out at a random place; `seed` is what the draws depend on besides step and sample.
    """

    flip: bool
    crop: int
    seed: int

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What is drawn for each sample at each step."""
        mirrored = (self.mirrored,) if self.flip else ()
        return (*mirrored, self.row, self.column) if self.crop else mirrored

    @property
    def mirrored(self) -> Draw:
        """Whether a sample is mirrored."""
        return Draw(self.seed, "flip", 2)

    @property
    def row(self) -> Draw:
        """The first row of its crop."""
        return Draw(self.seed, "crop row", 2 * self.crop + 1)

    @property
    def column(self) -> Draw:
        """The first column of its crop."""
        return Draw(self.seed, "crop column", 2 * self.crop + 1)


def augment(
    images: torch.Tensor,
    index: torch.Tensor,
    step: Counter,
    augmentation: Augmentation,
    drawn: Drawn | None = None,
) -> torch.Tensor:
    """Crop a batch at random, then mirror at random.

    `images` are uint8 of shape (batch, height, width, channels), `index` the numbers of the
    samples, int64 of shape (batch,), and `step` the step before the update; what is not `drawn` yet
    is drawn now.
    """
    crop, drawn = augmentation.crop, drawn or {}
    if not crop and not augmentation.flip:
        return images
    batch, height, width, channels = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, height)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    if augmentation.flip:
        mirrored = augmentation.mirrored.of(drawn, step, index).bool()
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    if crop:
        images = functional.pad(images, (0, 0, crop, crop, crop, crop))
        rows = rows + augmentation.row.of(drawn, step, index)[:, None]
        columns = columns + augmentation.column.of(drawn, step, index)[:, None]
    # One gather of whole pixels does both.
    first = torch.arange(batch, device=images.device)[:, None] * images.shape[1]
    pixels = ((first + rows) * images.shape[2])[:, :, None] + columns[:, None, :]
    chosen = images.reshape(-1, channels).index_select(0, pixels.flatten())
    return chosen.view(batch, height, width, channels)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Normalisation:
    """Turns bytes into floats of mean 0 and standard deviation 1 a channel.

    A byte times `scale` plus `shift`, float32 of shape (channels,), is the network's input.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input, float32 of shape (batch, channels, height, width).

        It is kept with the channels fastest, which convolutions on a CPU prefer.
        """
        return (images.to(torch.float32) * self.scale + self.shift).permute(0, 3, 1, 2)
