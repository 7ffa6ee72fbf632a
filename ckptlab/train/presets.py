"""Named settings: the networks of the early-phase study, and small ones to start with.

References
----------
Frankle, Schwab & Morcos (2020), The Early Phase of Neural Network Training, arXiv:2002.10365.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ckptlab.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Named settings, by section; what is left out is the default."""

    name: str
    summary: str
    settings: Mapping[str, Any]


EVALUATED = "0::1ep, log:10, 500, 2000, 4000"
"""Evaluations of every epoch, often at first, and at the bounds of the early phases."""


def _early_phase(model: str, title: str, batch_size: int = 128) -> Preset:
    return Preset(
        name=f"{model}-cifar10",
        summary=f"{title} on CIFAR-10, 160 epochs; steps 0 to 4000 and the last are recorded",
        settings=MappingProxyType(
            {
                "model": {"name": model},
                "data": {"name": "cifar10"},
                "optim": {"schedule": "multistep", "milestones": ["80ep", "120ep"]},
                "train": {"steps": "160ep", "batch_size": batch_size},
                "record": {"steps": "0:4001"},
                "eval": {"steps": EVALUATED},
            }
        ),
    )


def _small(name: str, model: str, data: str, steps: int | str, summary: str) -> Preset:
    return Preset(
        name=name,
        summary=summary,
        settings=MappingProxyType(
            {
                "model": {"name": model},
                "data": {"name": data},
                # The recipe that lottery-ticket studies use on MNIST: plain gradient descent.
                "optim": {"momentum": 0.0, "weight_decay": 0.0},
                "train": {"steps": steps},
                "record": {"steps": "0:4001"},
                "eval": {"steps": EVALUATED},
            }
        ),
    )


_PRESETS = (
    _early_phase("resnet20", "ResNet-20"),
    _early_phase("resnet56", "ResNet-56"),
    _early_phase("resnet18", "ResNet-18 with the ImageNet stem"),
    _early_phase("vgg13", "VGG-13", batch_size=64),
    _early_phase("wrn-16-8", "WRN-16-8"),
    _small("lenet", "lenet", "mnist", "40ep", "LeNet-5 on MNIST, 40 epochs"),
    _small("mlp", "mlp", "mnist", "40ep", "LeNet-300-100 on MNIST, 40 epochs"),
    _small("lenet-digits", "lenet", "digits", 500, "LeNet-5 on the built-in digits, 500 steps"),
    _small("mlp-digits", "mlp", "digits", 500, "LeNet-300-100 on the built-in digits, 500 steps"),
)

PRESETS: Registry[Preset] = Registry("preset", _PRESETS)
