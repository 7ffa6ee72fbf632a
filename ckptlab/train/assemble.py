"""Assemble a training from its settings, ready to be continued from any step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ckptlab.record.schedule import parse_step
from ckptlab.train.augment import Augmentation
from ckptlab.train.config import Config
from ckptlab.train.cuda_graph import GraphedStep
from ckptlab.train.data import Data, load_data
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.evaluate import EvalResult, evaluate
from ckptlab.train.models.build import build_model, draws_randomness
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.optimizers import OtherOptimConfig, build_optimizer, learning_rate
from ckptlab.train.order import Order
from ckptlab.train.seeds import Seeds
from ckptlab.train.sparse import Sparsity
from ckptlab.train.step import StepResult, TrainingStep
from ckptlab.train.tasks.build import build_task, with_stages
from ckptlab.train.tasks.fit import count_answers, stage_schedules
from ckptlab.train.tasks.task import Task

EVALUATED = (256, 2048)
"""Images evaluated at a time: what fits a CPU's cache, and what fills a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Training:
    """Model, optimizer, data and step of one training.

    `task` is the one outside the stages, which `evaluate` uses; that of `update` has them.
    `update(k)` turns step k into k + 1, and `run` does the same, on a GPU from CUDA graphs. Model
    and optimizer are at their initialisation when built.
    """

    config: Config
    device: torch.device
    seeds: Seeds
    task: Task
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
        return evaluate(self.model, self.task, size, self.update.autocast)


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
        If model, task, data and device do not fit together.
    """
    device = resolve_device(config.train)
    seeds = Seeds.resolve(config.train)
    found = load_data(config.data, device) if data is None else data
    return assemble(config, found, device, seeds, mask)


def assemble(
    config: Config,
    data: Data,
    device: torch.device,
    seeds: Seeds,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Training:
    """Assemble a training around data that are on its device already, as `build` does."""
    shape = replace(data.shape, classes=count_answers(config.task, data.shape))
    order = Order(
        samples=shape.train, batch_size=config.train.batch_size, seed=seeds.order, device=device
    )
    steps = parse_step(config.train.steps, order.steps_per_epoch)
    stages = stage_schedules(config.task, steps, order.steps_per_epoch)
    task = build_task(config.task, data, seeds)
    model = build_model(config.model, shape, seeds.init)
    reseed = draws_randomness(model, shape, _smallest_batch(shape, order.batch_size))
    model.to(device)
    optimizer = build_optimizer(config.optim, model)
    built_in = not isinstance(config.optim, OtherOptimConfig)
    update = TrainingStep(
        model=model,
        optimizer=optimizer,
        task=with_stages(task, config.task, stages, seeds),
        order=order,
        rate=learning_rate(config.optim, steps, order.steps_per_epoch),
        augmentation=Augmentation(flip=data.flip, crop=data.crop, seed=seeds.augment),
        autocast=torch.bfloat16 if config.train.precision == "bf16" else None,
        reseed=reseed,
        sparsity=None if mask is None else Sparsity(model, mask),
        # As a graph has it, so that both round it alike.
        device_rate=torch.zeros((), device=device) if device.type == "cuda" and built_in else None,
    )
    # Draws of the network itself, such as dropout's, are seeded by the host for each update.
    # An optimizer of a user may wait for the host, which a graph cannot.
    graphed = config.train.graph and device.type == "cuda" and not reseed and built_in
    return Training(
        config=config,
        device=device,
        seeds=seeds,
        task=task,
        model=model,
        optimizer=optimizer,
        update=update,
        run=GraphedStep(update) if graphed else update,
        steps=steps,
    )


def _smallest_batch(shape: DataShape, batch_size: int) -> int:
    """Return 1 if any batch is of one image, which batch norm may refuse, else 2."""
    return 1 if 1 in (shape.train % batch_size, batch_size) else 2
