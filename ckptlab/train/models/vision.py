"""Networks that torchvision builds, untrained."""

from __future__ import annotations

import torchvision
from torch import nn

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.train.datasets.registry import DataShape

# These return extra logits in training unless told not to, and their initialisation takes minutes.
_AUXILIARY = ("googlenet", "inception_v3")


def torchvision_model(groups: tuple[str, ...], shape: DataShape, width: int | None) -> nn.Module:  # noqa: ARG001
    """Build a network of ``torchvision.models`` by its name there.

    Parameters
    ----------
    groups : tuple of str
        The name.
    shape : DataShape
        Of the data.
    width : object
        Unused; torchvision's networks have their own.

    Returns
    -------
    Module
        The network with torchvision's own initialisation.

    Raises
    ------
    UnknownNameError
        If torchvision has no such network.
    ConfigError
        If the images do not have three channels.
    """
    (name,) = groups
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


def resnet18(groups: tuple[str, ...], shape: DataShape, width: int | None) -> nn.Module:  # noqa: ARG001
    """Build ResNet-18 with the 7×7 stem and max-pooling, for images of any number of channels.

    Parameters
    ----------
    groups, width : object
        Unused; every builder is called alike.
    shape : DataShape
        Of the data.

    Returns
    -------
    Module
        The network.
    """
    network: nn.Module = torchvision.models.resnet18(num_classes=shape.classes)
    if shape.channels != 3:
        network.conv1 = nn.Conv2d(shape.channels, 64, 7, stride=2, padding=3, bias=False)
    return network
