"""Do one update: batch, forward, backward, optimizer; a pure function of the state and the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ckptlab.train.augment import Augmentation, augment
from ckptlab.train.counter_rng import Counter, Draw, derived_seed
from ckptlab.train.learning_rate import LearningRate
from ckptlab.train.order import Order
from ckptlab.train.sparse import Sparsity
from ckptlab.train.tasks.task import Batch, Task


class StepResult(NamedTuple):
    """Loss and accuracy of a mini-batch before the update; reading them waits for the device."""

    loss: torch.Tensor
    accuracy: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingStep:
    """Turns the model and optimizer at step k into those at step k + 1.

    Given the state at k, it does the same whatever was called before: samples, augmentation,
    learning rate and dropout depend on the seeds and k alone. `autocast` is the type of
    convolutions and matrix products where it is not float32; `reseed` tells whether the model draws
    random numbers itself; `sparsity` zeroes pruned weights; `device_rate`, of shape (), is what the
    optimizer reads the learning rate from, if not from the host.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    order: Order
    rate: LearningRate
    augmentation: Augmentation
    autocast: torch.dtype | None = None
    reseed: bool = False
    sparsity: Sparsity | None = None
    device_rate: torch.Tensor | None = None

    def batch_at(self, step: int) -> Batch:
        """Return the batch, augmented and normalised, of the update from `step`."""
        task = self.task.at(step)
        return self._batch(task, self.drawn_at(task, step), step)

    def drawn_at(self, task: Task, step: int) -> torch.Tensor:
        """Return the samples of the update from `step` and what is drawn for them (see `Order`)."""
        return self.order.drawn_at(step, self._draws(task))

    def set_rate(self, step: int) -> None:
        """Set the learning rate of the update from `step`."""
        rate: float | torch.Tensor = self.rate(step)
        if self.device_rate is not None:
            rate = self.device_rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def __call__(self, step: int) -> StepResult:
        """Do the update from `step` to `step` + 1; the gradients stay in place."""
        self.set_rate(step)
        if self.reseed:
            torch.manual_seed(derived_seed(self.augmentation.seed, "dropout", step))
        task = self.task.at(step)
        return self.update(task, self.drawn_at(task, step), step)

    def update(self, task: Task, drawn: torch.Tensor, step: Counter) -> StepResult:
        """Do one update on the samples `drawn`: all that runs on the device, and only that."""
        batch = self._batch(task, drawn, step)
        # Here and not after the update, so that a recorder still finds the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        device = batch.images.device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            logits = self.model(batch.images)
            loss = functional.cross_entropy(logits, batch.labels)
        loss.backward()
        if self.sparsity is not None:
            self.sparsity.mask_gradients()
        self.optimizer.step()
        with torch.no_grad():
            accuracy = (logits.argmax(1) == batch.labels).float().mean()
        return StepResult(loss.detach(), accuracy)

    def _draws(self, task: Task) -> tuple[Draw, ...]:
        return self.augmentation.draws + task.draws

    def _batch(self, task: Task, rows: torch.Tensor, step: Counter) -> Batch:
        data, index = task.data, rows[0]
        drawn = dict(zip(self._draws(task), rows[1:], strict=True))
        images = augment(data.train.index_select(0, index), index, step, self.augmentation, drawn)
        labels = data.train_labels.index_select(0, index)
        return task.train(Batch(data.normalise(images), labels, index, drawn), step)
