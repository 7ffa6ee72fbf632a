"""Build VGG for small images: convolutions with batch norm, and one linear layer.

References
----------
Simonyan & Zisserman (2015), Very Deep Convolutional Networks, arXiv:1409.1556.
"""

from __future__ import annotations

import torch
from torch import nn

from ckptlab.train.datasets.registry import DataShape

# Convolutions of each stage, in multiples of the width; max-pooling lies between the stages.
_CONVOLUTIONS: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((1,), (2,), (4, 4), (8, 8), (8, 8)),
    13: ((1, 1), (2, 2), (4, 4), (8, 8), (8, 8)),
    16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
}


class VGG(nn.Module):
    """Stages of 3×3 convolutions with biases, halved in size between them, then the mean."""

    def __init__(self, depth: int, width: int, shape: DataShape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape.channels
        for i, stage in enumerate(_CONVOLUTIONS[depth]):
            if i:
                # Rounding up lets images below 16 pixels through; others are halved exactly.
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for multiple in stage:
                layers.append(nn.Conv2d(channels, multiple * width, 3, padding=1))
                channels = multiple * width
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, shape.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, classes)."""
        logits: torch.Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits
