"""Choose how images and the weights of convolutions lie in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ckptlab.train.sections import TrainConfig

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}


class Layout(NamedTuple):
    """Formats of images and of weights; the gradient of one that differs is copied at each step."""

    images: str
    weights: str
    why: str


def resolve_layout(config: TrainConfig, device: torch.device) -> Layout:
    """Return the layout that is set, or what suits device and precision."""
    if config.layout != "auto":
        return Layout(config.layout, config.layout, "train.layout")
    if device.type == "cpu":
        return Layout(CHANNELS_LAST, CONTIGUOUS, "what convolutions on a CPU prefer")
    if config.precision == "fp32":
        return Layout(CONTIGUOUS, CONTIGUOUS, "cuDNN's float32 kernels take it as it is")
    return Layout(CHANNELS_LAST, CHANNELS_LAST, "tensor cores take it as it is")
