"""Do one update: batch, forward, backward, optimizer; a pure function of the state and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ckptlab.problems.examples import Pair, Stage
from ckptlab.problems.problem import Problem
from ckptlab.train.counter_rng import Counter, derived_seed
from ckptlab.train.learning_rate import LearningRate
from ckptlab.train.order import Order
from ckptlab.train.sparse import Sparsity


class StepResult(NamedTuple):
    """Loss and accuracy of a mini-batch before the update; reading them waits for the device."""

    loss: torch.Tensor
    accuracy: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingStep:
    """Turns the model and optimizer at step k into those at step k + 1.

    Given the state at k, it does the same whatever was called before: samples, augmentation,
    learning rate and dropout depend on the seeds and k alone. `rates` are those of the optimizer's
    groups; `autocast` is the type of convolutions and matrix products where it is not float32;
    `draws` seeds the model's own random numbers, None if it draws none; `sparsity` zeroes pruned
    weights; `device_rate`, of shape (), is what the optimizer reads the learning rate from, if not
    from the host; `image_format` is how images are to lie in memory, None as they come.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    problem: Problem
    order: Order
    rates: Sequence[LearningRate]
    device: torch.device
    autocast: torch.dtype | None = None
    draws: int | None = None
    sparsity: Sparsity | None = None
    device_rate: torch.Tensor | None = None
    image_format: torch.memory_format | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate of the first group in the update from `step`."""
        return self.rates[0](step)

    def batch_at(self, step: int) -> Pair:
        """Return the batch, augmented and normalised, of the update from `step`."""
        stage: Stage = self.problem.train.at(step)
        return stage.batch(self.drawn_at(stage, step), step)

    def drawn_at(self, stage: Stage, step: int) -> torch.Tensor:
        """Return the samples of the update from `step` and what is drawn for them (see `Order`)."""
        return self.order.drawn_at(step, stage.draws)

    def set_rate(self, step: int) -> None:
        """Set the learning rates of the update from `step`."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            value = rate(step)
            on_device = self.device_rate
            group["lr"] = value if on_device is None else on_device.fill_(value)

    def __call__(self, step: int) -> StepResult:
        """Do the update from `step` to `step` + 1; the gradients stay in place."""
        self.set_rate(step)
        if self.draws is not None:
            torch.manual_seed(derived_seed(self.draws, "dropout", step))
        stage: Stage = self.problem.train.at(step)
        return self.update(stage, self.drawn_at(stage, step), step)

    def update(self, stage: Stage, drawn: torch.Tensor, step: Counter) -> StepResult:
        """Do one update on the samples `drawn`: all that runs on the device, and only that."""
        inputs, targets = (part.to(self.device) for part in stage.batch(drawn, step))
        # Here and not after the update, so that a recorder still finds the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            outputs = self.model(self._laid_out(inputs))
            loss = self.problem.loss(outputs, targets)
        loss.backward()
        if self.sparsity is not None:
            self.sparsity.mask_gradients()
        self.optimizer.step()
        with torch.no_grad():
            accuracy = self.problem.score(outputs, targets).float().mean()
        return StepResult(loss.detach(), accuracy)

    def _laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.image_format is None or inputs.ndim != 4:
            return inputs
        return inputs.contiguous(memory_format=self.image_format)
