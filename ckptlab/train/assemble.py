"""Assemble a training from its settings, ready to be continued from any step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ckptlab.problems.problem import Problem
from ckptlab.record.schedule import parse_step
from ckptlab.train.config import Config
from ckptlab.train.cuda_graph import GraphedStep
from ckptlab.train.data import Data
from ckptlab.train.evaluate import EvalResult, evaluate
from ckptlab.train.layout import CHANNELS_LAST, FORMATS, resolve_layout
from ckptlab.train.models.build import build_model, lay_channels_last, try_forward
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.optimizers import AdamwConfig, SgdConfig, build_optimizer, learning_rate
from ckptlab.train.order import Order
from ckptlab.train.problem_build import build_problem
from ckptlab.train.seeds import Seeds
from ckptlab.train.sparse import Sparsity
from ckptlab.train.step import StepResult, TrainingStep

EVALUATED = (256, 2048)
"""Examples evaluated at a time: what fits a CPU's cache, and what fills a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Training:
    """Model, optimizer, problem and step of one training.

    `update(k)` turns step k into k + 1, and `run` does the same, on a GPU from CUDA graphs. Model
    and optimizer are at their initialisation when built.
    """

    config: Config
    device: torch.device
    seeds: Seeds
    problem: Problem
    model: nn.Module
    optimizer: torch.optim.Optimizer
    update: TrainingStep
    run: Callable[[int], StepResult]
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of updates an epoch."""
        return self.update.order.steps_per_epoch

    def numerics(self) -> AbstractContextManager[None]:
        """Return the context in which `step` and `evaluate` give the recorded numbers."""
        return numerics(self.config.train, self.device)

    def step(self, step: int) -> StepResult:
        """Do the update from `step` to `step` + 1; returns loss and accuracy, on the device."""
        return self.run(step)

    def evaluate(self) -> EvalResult:
        """Evaluate the model on the test set."""
        size = self.config.eval.batch_size or EVALUATED[self.device.type == "cuda"]
        return evaluate(self.model, self.problem, size, self.device, self.update.autocast)


def build(
    config: Config, mask: npt.NDArray[np.bool_] | None = None, data: Data | None = None
) -> Training:
    """Assemble a training: the model at its initialisation, nothing trained yet.

    `mask`, bool of shape (param,), is True for the weights that are kept; the others are not zeroed
    yet (see `initial_state.begin`). `data` is the data set on the device, where it was read before.

    Raises
    ------
    DataError
        If the data set is missing or incomplete.
    ConfigError
        If model, loss, data and device do not fit together.
    """
    device = resolve_device(config.train)
    return assemble(config, build_problem(config, device, data=data), device, mask)


def assemble(
    config: Config,
    problem: Problem,
    device: torch.device,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Training:
    """Assemble a training of a problem whose examples are on its device, as `build` does."""
    seeds = Seeds.resolve(config.train)
    samples = len(problem.train)
    order = Order(
        samples=samples, batch_size=config.train.batch_size, seed=seeds.order, device=device
    )
    steps = parse_step(config.train.steps, order.steps_per_epoch)
    model = build_model(problem.model, seeds.init)
    draws = try_forward(problem, model, _smallest_batch(samples, order.batch_size))
    layout = resolve_layout(config.train, device)
    if layout.weights == CHANNELS_LAST:
        lay_channels_last(model)
    model.to(device)
    optimizer = build_optimizer(config.optim, model, problem.optimizer)
    built_in = isinstance(config.optim, SgdConfig | AdamwConfig)
    rates = [
        learning_rate(config.optim, steps, order.steps_per_epoch, float(group["lr"]))
        for group in optimizer.param_groups
    ]
    update = TrainingStep(
        model=model,
        optimizer=optimizer,
        problem=problem,
        order=order,
        rates=rates,
        device=device,
        autocast=torch.bfloat16 if config.train.precision == "bf16" else None,
        draws=seeds.augment if draws else None,
        sparsity=None if mask is None else Sparsity(model, mask),
        image_format=FORMATS[layout.images] if layout.images == layout.weights else None,
        # As a graph has it, so that both round it alike.
        device_rate=torch.zeros((), device=device) if device.type == "cuda" and built_in else None,
    )
    # Draws of the network itself, such as dropout's, are seeded by the host for each update. An
    # optimizer or examples of a user's may wait for the host, which a graph cannot.
    graphed = config.train.graph and device.type == "cuda" and not draws
    graphed = graphed and problem.train.on_device and built_in
    return Training(
        config=config,
        device=device,
        seeds=seeds,
        problem=problem,
        model=model,
        optimizer=optimizer,
        update=update,
        run=GraphedStep(update) if graphed else update,
        steps=steps,
    )


def _smallest_batch(samples: int, batch_size: int) -> int:
    """Return 1 if any batch is of one example, which batch norm may refuse, else 2."""
    return 1 if 1 in (samples % batch_size, batch_size, samples) else 2
