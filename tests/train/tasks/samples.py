"""Small data sets and trainings for tests of tasks."""

from __future__ import annotations

from ckptlab.train.assemble import Training, build
from ckptlab.train.config import load_config
from ckptlab.train.data import Data, load_data
from ckptlab.train.datasets.registry import DataShape, SyntheticConfig
from ckptlab.train.seeds import Seeds

SHAPE = DataShape(channels=1, height=8, width=8, classes=10, train=1437, test=360)


def seeds(task: int = 0) -> Seeds:
    return Seeds(init=1, order=2, augment=3, task=task)


def synthetic(samples: int = 64, size: int = 8, channels: int = 3, classes: int = 10) -> Data:
    return load_data(
        SyntheticConfig(samples=samples, image_size=size, channels=channels, classes=classes)
    )


def training(*overrides: str) -> Training:
    """Put a training on 8x8 images together that mirrors and crops them; 9 updates an epoch."""
    common = [
        "model.name=mlp",
        "model.width=3",
        "data.name=synthetic",
        "data.samples=70",
        "data.image_size=8",
        "data.flip=true",
        "data.crop=2",
        "train.batch_size=8",
        "train.steps=40",
        "train.device=cpu",
    ]
    return build(load_config(overrides=[*common, *overrides]))
