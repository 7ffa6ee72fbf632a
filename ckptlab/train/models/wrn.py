"""Build wide residual networks, with batch norm and ReLU before each convolution.

References
----------
Zagoruyko & Komodakis (2016), Wide Residual Networks, arXiv:1605.07146.
"""

from __future__ import annotations

import torch
from torch import nn

from ckptlab.train.datasets.registry import DataShape


class PreActivationBlock(nn.Module):
    """Two 3×3 convolutions, each after batch norm and ReLU, and a shortcut.

    Where `inputs` and `outputs` differ, the shortcut is a 1×1 convolution of the activated input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, shape (batch, outputs, height, width)."""
        activated = torch.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(activated)
        y: torch.Tensor = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        return y + kept


class WideResNet(nn.Module):
    """Three stages of (depth − 4) / 6 blocks, of 16, 32 and 64 channels times `factor`."""

    def __init__(self, depth: int, factor: int, shape: DataShape) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(shape.channels, 16, 3, padding=1, bias=False)
        channels = 16
        stages: list[nn.Module] = []
        for outputs, stride in ((16 * factor, 1), (32 * factor, 2), (64 * factor, 2)):
            stage = [PreActivationBlock(channels, outputs, stride)]
            stage += [PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            channels = outputs
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, shape.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        logits: torch.Tensor = self.fc(torch.relu(self.bn(x)).mean((2, 3)))
        return logits
