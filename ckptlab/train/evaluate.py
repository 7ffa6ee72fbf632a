"""Compute loss and accuracy on the test set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ckptlab.train.tasks.task import Batch, Task


class EvalResult(NamedTuple):
    """Mean cross-entropy on the test set in nats, and the share of right answers."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, batch_size: int, autocast: torch.dtype | None = None
) -> EvalResult:
    """Evaluate a model on the whole test set; it keeps its mode and its buffers."""
    data = task.data
    was_training = model.training
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=data.test.device)
    count = 0
    for index in torch.arange(data.shape.test, device=data.test.device).split(batch_size):
        images = data.normalise(data.test[index])
        batch = task.test(Batch(images, data.test_labels[index], index))
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            logits = model(batch.images)
        loss = functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
        right = (logits.argmax(1) == batch.labels).sum()
        total += torch.stack([loss.double(), right.double()])
        count += len(batch.labels)
    model.train(was_training)
    loss_sum, right_sum = total.tolist()
    return EvalResult(loss_sum / count, right_sum / count)
