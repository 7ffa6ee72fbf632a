"""Build a network: its modules, and its initial weights drawn from a seed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ckptlab.errors import ConfigError
from ckptlab.train.counter_rng import derived_seed
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.factories import call
from ckptlab.train.models.registry import ModelConfig, find_model


def build_model(config: ModelConfig, shape: DataShape, init_seed: int) -> nn.Module:
    """Build a network on the CPU; the same seed gives the same weights on every machine.

    torch's own generator is left as it was.

    Raises
    ------
    ConfigError
        If there is no such network, or it does not take such images.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the devices' generators for good.
        torch.default_generator.manual_seed(derived_seed(init_seed, "init"))
        model = _make(config, shape)
        if not find_model(config.name)[0].own_init:
            initialise(model)
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        _avoid_overrun(model)
    return model.train()


def _avoid_overrun(model: nn.Module) -> None:
    """Hand narrow strided 1x1 convolutions contiguous images.

    With channels last, their backward pass in torch 2.14's oneDNN writes past its memory on a CPU
    with AVX2 and no AVX-512, if there are fewer than 8 channels.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1):
            continue
        if module.in_channels < 8 and max(module.stride) > 1:
            module.register_forward_pre_hook(_contiguous)


def _contiguous(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


def _make(config: ModelConfig, shape: DataShape) -> nn.Module:
    """Build the modules, with whatever weights they come with."""
    family, groups = find_model(config.name)
    square = shape.height == shape.width
    offered = {
        **groups,
        "shape": shape,
        "width": config.width or family.width,
        "classes": shape.classes,
        "channels": shape.channels,
        "image_size": shape.height if square else (shape.height, shape.width),
    }
    # A width is handed to built-in networks alone; a user's is an option.
    if not isinstance(family.build, str):
        del offered["width"], offered["shape"]
    model = call(family.build, "model.name", offered, config.options)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.name={config.name!r} makes a {type(model).__name__}; a torch.nn.Module is "
            "needed"
        )
    return model


def initialise(model: nn.Module) -> None:
    """Draw weights as the study of the early phase does, from torch's generator.

    Kaiming normal (fan in) for convolutions and linear layers, batch-norm scale uniform in [0, 1]
    and shift 0; biases stay as torch initialised them.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.zeros_(module.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Number of parameters and of elements of persistent buffers; tied ones count once."""

    parameters: int
    buffers: int


def model_size(config: ModelConfig, shape: DataShape) -> Size:
    """Count the elements of a network without allocating them."""
    with torch.device("meta"):
        model = _make(config, shape)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Size(
        parameters=parameters,
        buffers=sum(x.numel() for x in model.state_dict().values()) - parameters,
    )


def draws_randomness(model: nn.Module, shape: DataShape, batch_size: int) -> bool:
    """Return whether a training forward draws random numbers, as dropout does.

    Tries a copy of the model, which is on the CPU, on black images; ConfigError if it does not take
    them.
    """
    trial = copy.deepcopy(model).train()
    images = torch.zeros(batch_size, shape.channels, shape.height, shape.width)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.default_generator.get_state()
        try:
            trial(images)
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"the model does not take {batch_size} images of {shape.channels} x "
                f"{shape.height} x {shape.width}: {reason}. Choose another model.name, "
                "data.image_size or train.batch_size."
            ) from error
        return not torch.equal(before, torch.default_generator.get_state())
