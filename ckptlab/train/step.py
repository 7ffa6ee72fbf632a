"""Do one update: batch, forward, backward, optimizer; a pure function of the state and the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ckptlab.train.augment import Augmentation, augment
from ckptlab.train.counter_rng import Counter, derived_seed
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
    random numbers itself; `sparsity` zeroes pruned weights.
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

    def batch_at(self, step: int) -> Batch:
        """Return the batch, augmented and normalised, of the update from `step`."""
        return self._batch(self.task.at(step), self.order.batch_at(step), step)

    def __call__(self, step: int) -> StepResult:
        """Do the update from `step` to `step` + 1; the gradients stay in place."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        if self.reseed:
            torch.manual_seed(derived_seed(self.augmentation.seed, "dropout", step))
        return self.update(self.task.at(step), self.order.batch_at(step), step)

    def update(self, task: Task, index: torch.Tensor, step: Counter) -> StepResult:
        """Do one update on the samples `index`: all that runs on the device, and only that."""
        batch = self._batch(task, index, step)
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

    def _batch(self, task: Task, index: torch.Tensor, step: Counter) -> Batch:
        data = task.data
        images = augment(data.train.index_select(0, index), index, step, self.augmentation)
        labels = data.train_labels.index_select(0, index)
        return task.train(Batch(data.normalise(images), labels, index), step)
