"""Which optimizers there are, and which settings each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptlab.train.registry import find, resolve

if TYPE_CHECKING:
    import torch

    from ckptlab.train.sections import OptimConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerEntry:
    """One optimizer.

    Parameters
    ----------
    name : str
        What users write.
    build : str
        ``"module:class"``.
    options : tuple of str
        Fields of `OptimConfig` handed to it, besides ``lr``.
    summary : str
        One line of documentation.
    on_cuda : tuple of str
        Arguments that must be true for it to be part of a CUDA graph.
    """

    name: str
    build: str
    options: tuple[str, ...]
    summary: str
    on_cuda: tuple[str, ...] = ()


OPTIMIZERS: tuple[OptimizerEntry, ...] = (
    OptimizerEntry(
        name="sgd",
        build="torch.optim:SGD",
        options=("momentum", "nesterov", "weight_decay"),
        summary="stochastic gradient descent with momentum",
    ),
    OptimizerEntry(
        name="adamw",
        build="torch.optim:AdamW",
        options=("betas", "eps", "weight_decay"),
        summary="Adam with decoupled weight decay",
        on_cuda=("capturable",),
    ),
)


def build_optimizer(config: OptimConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a model; weight decay acts on all its parameters.

    Parameters
    ----------
    config : OptimConfig
        The settings.
    model : Module
        Its parameters are optimized.

    Returns
    -------
    Optimizer
        With one parameter group.
    """
    entry = find(OPTIMIZERS, "optim.name", config.name)
    options = {name: getattr(config, name) for name in entry.options}
    if next(model.parameters()).is_cuda:
        # One kernel for all tensors, that takes a learning rate on the device.
        options |= {"fused": True, **dict.fromkeys(entry.on_cuda, True)}
    else:
        # The same numbers as the loop over tensors, without Python for each of them.
        options |= {"foreach": True}
    optimizer: torch.optim.Optimizer = resolve(entry.build)(
        model.parameters(), lr=config.lr, **options
    )
    return optimizer
