"""Which networks there are: names, patterns of names, and where each is built."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckptlab.errors import ConfigError, unknown_name


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """Networks that differ in numbers written in their name.

    Parameters
    ----------
    pattern : str
        Regular expression of a whole name; its groups are handed to `build`.
    examples : tuple of str
        Names shown in help and in errors.
    build : str
        ``"module:function"``, called as ``f(groups, shape, width)``, returns the module.
    summary : str
        One line of documentation.
    width : int or None
        What ``model.width`` defaults to; None if the width is fixed.
    own_init : bool
        Whether the builder's initialisation is kept instead of the house one.
    """

    pattern: str
    examples: tuple[str, ...]
    build: str
    summary: str
    width: int | None = None
    own_init: bool = False


MODELS: tuple[ModelFamily, ...] = (
    ModelFamily(
        pattern=r"mlp",
        examples=("mlp",),
        build="ckptlab.train.models.small:mlp",
        summary="two hidden layers of `width` and a third of it (LeNet-300-100)",
        width=300,
    ),
    ModelFamily(
        pattern=r"lenet",
        examples=("lenet",),
        build="ckptlab.train.models.small:lenet",
        summary="LeNet-5 with ReLU and max-pooling",
    ),
    ModelFamily(
        pattern=r"resnet18",
        examples=("resnet18",),
        build="ckptlab.train.models.vision:resnet18",
        summary="ResNet-18 with the ImageNet stem",
    ),
    ModelFamily(
        pattern=r"resnet(\d+)",
        examples=("resnet20", "resnet32", "resnet56"),
        build="ckptlab.train.models.resnet:cifar_resnet",
        summary="CIFAR residual network of any depth 6n+2",
        width=16,
    ),
    ModelFamily(
        pattern=r"vgg(11|13|16)",
        examples=("vgg11", "vgg13", "vgg16"),
        build="ckptlab.train.models.vgg:vgg",
        summary="VGG with batch norm and one linear layer",
        width=64,
    ),
    ModelFamily(
        pattern=r"wrn-(\d+)-(\d+)",
        examples=("wrn-16-8",),
        build="ckptlab.train.models.wrn:wide_resnet",
        summary="wide residual network wrn-D-K of any depth 6n+4 and factor K",
    ),
    ModelFamily(
        pattern=r"torchvision:(\w+)",
        examples=("torchvision:NAME",),
        build="ckptlab.train.models.vision:torchvision_model",
        summary="a classification network of torchvision with its own initialisation",
        own_init=True,
    ),
)
"""First match counts: ``resnet18`` has the ImageNet stem, every other ``resnetN`` the CIFAR one."""


def find_model(name: str) -> tuple[ModelFamily, tuple[str, ...]]:
    """Find the family a network belongs to.

    Parameters
    ----------
    name : str
        Such as ``"resnet20"``.

    Returns
    -------
    ModelFamily
        The family.
    tuple of str
        What the groups of its pattern matched, such as ``("20",)``.

    Raises
    ------
    UnknownNameError
        If no family matches.
    ConfigError
        If the family has no network of this depth.
    """
    for family in MODELS:
        match = re.fullmatch(family.pattern, name)
        if match is not None:
            _require_depth(name, family, match.groups())
            return family, match.groups()
    raise unknown_name("model.name", name, [x for family in MODELS for x in family.examples])


def _require_depth(name: str, family: ModelFamily, groups: tuple[str, ...]) -> None:
    remainders = {r"resnet(\d+)": 2, r"wrn-(\d+)-(\d+)": 4}
    remainder = remainders.get(family.pattern)
    if remainder is None:
        return
    depth = int(groups[0])
    if depth < 6 + remainder or depth % 6 != remainder or "0" in groups[1:]:
        below = max(6 + remainder, depth - (depth - remainder) % 6)
        raise ConfigError(
            f"model.name={name!r}: the depth must be 6n+{remainder} with n of at least 1, such as "
            f"{below} or {below + 6}; for example {', '.join(family.examples)}."
        )
