"""Tiny runs of the built-in trainer, and tiny networks recorded from a loop of one's own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import ckptlab
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train


def train_tiny(path: Path, *settings: str) -> Path:
    """Train on digits with one thread; 12 steps unless told otherwise."""
    common = ["train.threads=1", "train.steps=12", "record.fsync=false"]
    train(load_config(overrides=[*common, *settings]), str(path))
    return path


def record_own(
    path: Path, model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = 6
) -> Path:
    """Record plain gradient descent on all of the data."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ckptlab.Recorder(path, model, optimizer, fsync=False) as recorder:
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss=loss)
    return path


def points(count: int = 40, inputs: int = 5, classes: int = 3, seed: int = 0):
    """Draw inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator)
    return x, torch.randint(0, classes, (count,), generator=generator)


def seeded(make, seed: int = 0):
    """Build a network from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def tanh_network(hidden: int = 12) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 3)))


def normed_network() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    )
