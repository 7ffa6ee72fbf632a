"""Loss and accuracy on the test set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ckptlab.train.tasks.task import Batch, Task


class EvalResult(NamedTuple):
    """The test set's verdict.

    Parameters
    ----------
    loss : float
        Mean cross-entropy, in nats.
    accuracy : float
        Share of right answers, in [0, 1].
    """

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, batch_size: int, autocast: torch.dtype | None = None
) -> EvalResult:
    """Evaluate a model on the whole test set, with batch norm's running statistics.

    Parameters
    ----------
    model : Module
        Left in the mode it was in, its buffers untouched.
    task : Task
        Gives the data.
    batch_size : int
        Images at a time.
    autocast : dtype, optional
        Of convolutions and matrix products, where it is not float32.

    Returns
    -------
    EvalResult
        Means over all images.
    """
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
