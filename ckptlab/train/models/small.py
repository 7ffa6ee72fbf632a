"""Build two small networks: a fully connected one and LeNet-5."""

from __future__ import annotations

import torch
from torch import nn

from ckptlab.train.datasets.registry import DataShape

_LENET_VALID = 12


class MLP(nn.Module):
    """Two hidden layers with ReLU, on flattened images."""

    def __init__(self, inputs: int, first: int, second: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, first)
        self.fc2 = nn.Linear(first, second)
        self.fc = nn.Linear(second, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, classes)."""
        hidden = torch.relu(self.fc1(images.flatten(1)))
        logits: torch.Tensor = self.fc(torch.relu(self.fc2(hidden)))
        return logits


class LeNet(nn.Module):
    """Two convolutions with max-pooling and three linear layers, with ReLU.

    On images below 12 pixels the second convolution keeps the size, so that 8×8 digits fit.
    """

    def __init__(self, shape: DataShape) -> None:
        super().__init__()
        padding = 0 if min(shape.height, shape.width) >= _LENET_VALID else 2
        height, width = (((x // 2) + 2 * padding - 4) // 2 for x in (shape.height, shape.width))
        self.conv1 = nn.Conv2d(shape.channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=padding)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc = nn.Linear(84, shape.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, classes)."""
        x = self.pool(torch.relu(self.conv1(images)))
        x = self.pool(torch.relu(self.conv2(x))).flatten(1)
        logits: torch.Tensor = self.fc(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return logits


def mlp(shape: DataShape, width: int) -> nn.Module:
    """Build LeNet-300-100, or one of another width; the second layer has a third of the first."""
    inputs = shape.channels * shape.height * shape.width
    return MLP(inputs, width, max(width // 3, 1), shape.classes)
