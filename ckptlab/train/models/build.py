"""Build a network: its modules, and its initial weights drawn from a seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ckptlab.errors import CkptlabError, ConfigError
from ckptlab.problems.problem import Problem
from ckptlab.train.counter_rng import derived_seed
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.factories import call
from ckptlab.train.models.registry import ModelConfig, find_model


def build_model(make: Callable[[], Any], init_seed: int) -> nn.Module:
    """Make a network on the CPU; the same seed gives the same weights on every machine.

    torch's own generator is left as it was.

    Raises
    ------
    ConfigError
        If what `make` returns is no new network.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the devices' generators for good.
        torch.default_generator.manual_seed(derived_seed(init_seed, "init"))
        model = _made(make)
    if getattr(model, "_ckptlab_made", False):
        raise ConfigError("the model's function returns the same module again; make a new one")
    model._ckptlab_made = True  # type: ignore[assignment]
    for module in _overrun(model):
        module.register_forward_pre_hook(_contiguous)
    return model.train()


def lay_channels_last(model: nn.Module) -> None:
    """Lay the weights of convolutions out with channels last, where torch can train them so."""
    kept = [(module.weight, module.weight.data) for module in _overrun(model)]
    model.to(memory_format=torch.channels_last)
    for weight, data in kept:  # not by .to(): 1x1 weights are contiguous either way
        weight.data = data


def _overrun(model: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions to be kept contiguous, images and weights: narrow strided 1x1 ones.

    With channels last, their backward pass in torch 2.14's oneDNN writes past its memory on a CPU
    with AVX2 and no AVX-512, if there are fewer than 8 channels.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return []
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.in_channels < 8
        and max(module.stride) > 1
    ]


def _contiguous(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


def _made(make: Callable[[], Any]) -> nn.Module:
    try:
        model = make()
    except CkptlabError:
        raise
    # Whatever a user's code raises is told in one line; --debug shows where.
    except Exception as error:
        raise ConfigError(f"the model's function failed: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the model's function returns {type(model).__name__}; a torch.nn.Module is needed"
        )
    return model


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def build_network(config: ModelConfig, shape: DataShape) -> nn.Module:
    """Build a network of the settings, initialised from torch's generator."""
    model = _make(config, shape)
    if not find_model(config.name)[0].own_init:
        initialise(model)
    return model


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
            f"model.name={config.name!r} makes {type(model).__name__}; a torch.nn.Module is needed"
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


def model_size(make: Callable[[], Any]) -> Size:
    """Count the elements of a network without allocating them."""
    try:
        with torch.device("meta"):
            model = _made(make)
    except ConfigError:
        # Some networks of users compute with what they are made of.
        model = build_model(make, 0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Size(
        parameters=parameters,
        buffers=sum(x.numel() for x in model.state_dict().values()) - parameters,
    )


def try_forward(problem: Problem, model: nn.Module, batch_size: int) -> bool:
    """Try a model that is on the CPU; return whether a training forward draws random numbers.

    Draws from torch's generator, such as dropout's, are seeded for each update.

    Raises
    ------
    ConfigError
        If it does not take the examples, the loss is no scalar, or its outputs are not determined
        by weights, inputs and torch's generator.
    """
    trial = copy.deepcopy(model)
    held = copy.deepcopy(trial.state_dict())
    inputs, targets = (part.cpu() for part in problem.train.take(torch.arange(batch_size)))

    def forward(*, training: bool) -> tuple[Any, bool]:
        """Return outputs, and whether torch's generator was drawn from."""
        trial.load_state_dict(held)
        torch.default_generator.manual_seed(0)
        before = torch.default_generator.get_state()
        outputs = trial.train(training)(inputs)
        return outputs, not torch.equal(before, torch.default_generator.get_state())

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            first, draws = forward(training=True)
        except Exception as error:
            raise ConfigError(
                f"the model does not take {_described(inputs)}: {_reason(error)}. Choose another "
                "model.name, data.image_size or train.batch_size."
            ) from error
        _require_scalar(problem, first, targets)
        if not _same(first, forward(training=True)[0]):
            raise ConfigError(
                "the model's forward draws random numbers that torch's generator does not decide, "
                "so that no step could be repeated; draw them with torch, without a generator of "
                "its own"
            )
        once, drawn = forward(training=False)
        if drawn or not _same(once, forward(training=False)[0]):
            raise ConfigError(
                "the model's forward draws random numbers in evaluation too, so that losses could "
                "not be compared; draw them only while self.training"
            )
    return draws


def _same(one: Any, other: Any) -> bool:
    flat = [torch.utils._pytree.tree_leaves(x) for x in (one, other)]
    return len(flat[0]) == len(flat[1]) and all(
        torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for a, b in zip(*flat, strict=True)
        if isinstance(a, torch.Tensor)
    )


def _require_scalar(problem: Problem, outputs: Any, targets: torch.Tensor) -> None:
    name = problem.mean_loss.name
    try:
        loss = problem.loss(outputs, targets)
    except Exception as error:
        raise ConfigError(f"the loss {name} failed: {_reason(error)}") from error
    if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.is_floating_point():
        found = (
            f"{loss.dtype} of shape {tuple(loss.shape)}"
            if isinstance(loss, torch.Tensor)
            else type(loss).__name__
        )
        raise ConfigError(
            f"the loss {name} returns {found}; a tensor of shape () is needed, the mean over the "
            "batch"
        )
    try:
        problem.score(outputs, targets).float().mean()
    except Exception as error:
        raise ConfigError(f"the accuracy of the problem failed: {_reason(error)}") from error


def _described(inputs: torch.Tensor) -> str:
    if inputs.ndim == 4:
        count, *sizes = inputs.shape
        return f"{count} images of {' x '.join(map(str, sizes))}"
    return f"inputs of {inputs.dtype} and shape {tuple(inputs.shape)}"
