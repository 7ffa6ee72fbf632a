"""Name the networks: names and patterns of names, and where each is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from ckptlab.errors import ConfigError
from ckptlab.registry import Registry
from ckptlab.train.factories import Factory
from ckptlab.train.sections import Count, Section, options_of, setting, unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """Networks that differ in numbers written in their name.

    Parameters
    ----------
    pattern : str
        Regular expression of a whole name; its named groups are handed to `build`.
    examples : tuple of str
        Names shown in help and in errors; the first identifies the family.
    build : callable or str
        Returns the module; called with those of ``shape``, ``classes``, ``channels``,
        ``image_size``, ``width``, the groups and ``model.options`` that it has parameters for.
    summary : str
        One line of documentation.
    width : int or None
        What ``model.width`` defaults to; None if the width is fixed.
    depth : int or None
        Remainder d of depths 6n+d; None if any depth that the pattern matches is built.
    own_init : bool
        Whether the builder's initialisation is kept instead of the house one.
    """

    pattern: str
    examples: tuple[str, ...]
    build: Factory
    summary: str
    width: int | None = None
    depth: int | None = None
    own_init: bool = False

    @property
    def name(self) -> str:
        """What identifies the family in the registry."""
        return self.examples[0]


def model_family(name: str, build: Any, summary: str = "") -> ModelFamily:
    """Make an entry of a user's factory or module class."""
    if not callable(build):
        raise TypeError("a model is a function or class that makes a torch.nn.Module")
    if hasattr(build, "forward") and not inspect.isclass(build):
        raise TypeError("this is a module itself; give the function or class that makes it")
    doc = inspect.getdoc(build) or ""
    return ModelFamily(
        pattern=re.escape(name),
        examples=(name,),
        build=build,
        summary=summary or doc.partition("\n")[0],
        own_init=True,
    )


MODELS: Registry[ModelFamily] = Registry(
    "model",
    (
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
            build="ckptlab.train.models.small:LeNet",
            summary="LeNet-5 with ReLU and max-pooling",
        ),
        ModelFamily(
            pattern=r"resnet18",
            examples=("resnet18",),
            build="ckptlab.train.models.vision:resnet18",
            summary="ResNet-18 with the ImageNet stem",
        ),
        ModelFamily(
            pattern=r"resnet(?P<depth>\d+)",
            examples=("resnet20", "resnet32", "resnet56"),
            build="ckptlab.train.models.resnet:CifarResNet",
            summary="CIFAR residual network of any depth 6n+2",
            width=16,
            depth=2,
        ),
        ModelFamily(
            pattern=r"vgg(?P<depth>11|13|16)",
            examples=("vgg11", "vgg13", "vgg16"),
            build="ckptlab.train.models.vgg:VGG",
            summary="VGG with batch norm and one linear layer",
            width=64,
        ),
        ModelFamily(
            pattern=r"wrn-(?P<depth>\d+)-(?P<factor>\d+)",
            examples=("wrn-16-8",),
            build="ckptlab.train.models.wrn:WideResNet",
            summary="wide residual network wrn-D-K of any depth 6n+4 and factor K",
            depth=4,
        ),
        ModelFamily(
            pattern=r"torchvision:(?P<name>\w+)",
            examples=("torchvision:NAME",),
            build="ckptlab.train.models.vision:torchvision_model",
            summary="a classification network of torchvision with its own initialisation",
            own_init=True,
        ),
    ),
    adapt=model_family,
    group="ckptlab.models",
)
"""First match counts: ``resnet18`` has the ImageNet stem, every other ``resnetN`` the CIFAR one."""


def find_model(name: str) -> tuple[ModelFamily, Mapping[str, int | str]]:
    """Return the family of a network and the groups in its name, such as ``{"depth": 20}``.

    Raises
    ------
    UnknownNameError
        If no family matches.
    UntrustedNameError, PluginError
        If the name is ``module:object`` and a run gave it, or it cannot be used.
    ConfigError
        If the family has no network of this depth.
    """
    matched = _match(name)
    return (MODELS.find(name, "model.name"), {}) if matched is None else matched


def _match(name: str) -> tuple[ModelFamily, Mapping[str, int | str]] | None:
    for family in MODELS.values():
        match = re.fullmatch(family.pattern, name)
        if match is not None:
            groups = {k: int(v) if v.isdigit() else v for k, v in match.groupdict().items()}
            _require_depth(name, family, groups)
            return family, groups
    return None


def _require_depth(name: str, family: ModelFamily, groups: Mapping[str, Any]) -> None:
    remainder = family.depth
    if remainder is None:
        return
    depth = groups["depth"]
    if depth < 6 + remainder or depth % 6 != remainder or groups.get("factor") == 0:
        below = max(6 + remainder, depth - (depth - remainder) % 6)
        raise ConfigError(
            f"model.name={name!r}: the depth must be 6n+{remainder} with n of at least 1, such as "
            f"{below} or {below + 6}; for example {', '.join(family.examples)}."
        )


def _known(name: str) -> str:
    if _match(name) is None and not MODELS.knows(name):
        raise unknown(x for family in MODELS.values() for x in family.examples)
    return name


class ModelConfig(Section):
    """The network; its number of answers comes from the data and the task."""

    name: Annotated[str, AfterValidator(_known)] = setting(
        "resnet20", "which network", "a model name or module:object"
    )
    width: Count | None = setting(
        None, "channels of the first stage; default: that of the network", "a whole number >= 1"
    )
    options: dict[str, Any] = options_of("network")

    @model_validator(mode="after")
    def _settings_apply(self) -> ModelConfig:
        matched = _match(self.name)
        if matched is not None and self.width is not None and matched[0].width is None:
            raise ConfigError(
                f"model.width={self.width}: the width of {self.name!r} is fixed; leave it out."
            )
        builtin = matched is not None and isinstance(matched[0].build, str)
        if builtin and self.options:
            raise ConfigError(
                f"model.options does not apply to {self.name!r}; only networks of your own take it."
            )
        return self
