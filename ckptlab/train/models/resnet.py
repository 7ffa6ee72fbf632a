"""Build residual networks for CIFAR, of depth 6n+2.

References
----------
He, Zhang, Ren & Sun (2016), Deep Residual Learning for Image Recognition, arXiv:1512.03385.
"""

from __future__ import annotations

import torch
from torch import nn

from ckptlab.train.datasets.registry import DataShape


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut.

    Where `inputs` and `outputs` differ, the shortcut is a 1×1 convolution with batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, shape (batch, outputs, height, width)."""
        # In place: what a batch norm gives is needed nowhere else.
        y = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(y)).add_(self.shortcut(x)))


class CifarResNet(nn.Module):
    """Three stages of (depth − 2) / 6 residual blocks, of one, two and four times the width."""

    def __init__(self, depth: int, width: int, shape: DataShape) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(shape.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.fc = nn.Linear(4 * width, shape.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, classes)."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
