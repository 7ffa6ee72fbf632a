"""Build the networks of torchvision, untrained."""

from __future__ import annotations

import torchvision
from torch import nn

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.train.datasets.registry import DataShape

# These return extra logits in training unless told not to, and their initialisation takes minutes.
_AUXILIARY = ("googlenet", "inception_v3")


def torchvision_model(name: str, shape: DataShape) -> nn.Module:
    """Build a network of ``torchvision.models`` by its name there, with its own initialisation.

    Raises
    ------
    UnknownNameError
        If torchvision has no such network.
    ConfigError
        If the images do not have three channels.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        accepted = [f"torchvision:{known}" for known in names]
        raise unknown_name("model.name", f"torchvision:{name}", accepted)
    if shape.channels != 3:
        raise ConfigError(
            f"model.name='torchvision:{name}' takes images of 3 channels, the data has "
            f"{shape.channels}; choose other data or a built-in model."
        )
    extra = {"aux_logits": False, "init_weights": False} if name in _AUXILIARY else {}
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=shape.classes, **extra
    )
    return network


def resnet18(shape: DataShape) -> nn.Module:
    """Build ResNet-18 with the 7×7 stem and max-pooling, for images of any number of channels."""
    network: nn.Module = torchvision.models.resnet18(num_classes=shape.classes)
    if shape.channels != 3:
        network.conv1 = nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False)
    return network
