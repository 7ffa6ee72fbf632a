"""Random crops and flips of a whole batch, and normalisation, on the device the images lie on.

The draws of a sample depend on (seed, step, sample) alone, not on its place in
the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from ckptlab.train.counter_rng import Counter, derived_seed, integers


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What is done to training images at random.

    Parameters
    ----------
    flip : bool
        Mirror half of them.
    crop : int
        Pad with black by this many pixels and cut the original size out at a random place.
    seed : int
        What the draws depend on, besides step and sample.
    """

    flip: bool
    crop: int
    seed: int


def augment(
    images: torch.Tensor, index: torch.Tensor, step: Counter, augmentation: Augmentation
) -> torch.Tensor:
    """Crop a batch at random, then mirror at random.

    Parameters
    ----------
    images : Tensor of uint8, shape (batch, height, width, channels)
        The originals.
    index : Tensor of int64, shape (batch,)
        Which samples they are.
    step : int or Tensor
        Step before the update.
    augmentation : Augmentation
        What is done.

    Returns
    -------
    Tensor of uint8, shape of `images`
        The augmented batch.
    """
    crop, seed = augmentation.crop, augmentation.seed
    if not crop and not augmentation.flip:
        return images
    batch, height, width, channels = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, height)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    if augmentation.flip:
        mirrored = integers(derived_seed(seed, "flip", step), index, 2).bool()
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    if crop:
        images = functional.pad(images, (0, 0, crop, crop, crop, crop))
        rows = rows + integers(derived_seed(seed, "crop row", step), index, 2 * crop + 1)[:, None]
        shift = integers(derived_seed(seed, "crop column", step), index, 2 * crop + 1)
        columns = columns + shift[:, None]
    # One gather of whole pixels does both.
    first = torch.arange(batch, device=images.device)[:, None] * images.shape[1]
    pixels = ((first + rows) * images.shape[2])[:, :, None] + columns[:, None, :]
    chosen = images.reshape(-1, channels).index_select(0, pixels.flatten())
    return chosen.view(batch, height, width, channels)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Normalisation:
    """Bytes to floats of mean 0 and standard deviation 1 a channel.

    Parameters
    ----------
    scale, shift : Tensor of float32, shape (channels,)
        A byte times `scale` plus `shift` is the network's input.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input.

        Parameters
        ----------
        images : Tensor of uint8, shape (batch, height, width, channels)
            The images.

        Returns
        -------
        Tensor of float32, shape (batch, channels, height, width)
            Kept with the channels fastest, which convolutions on a CPU prefer.
        """
        return (images.to(torch.float32) * self.scale + self.shift).permute(0, 3, 1, 2)
