"""Compute loss and accuracy on the test set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ckptlab.problems.problem import Problem
from ckptlab.problems.scores import each, widened


class EvalResult(NamedTuple):
    """Mean loss on the test set, and its accuracy as the problem declares it."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(
    model: nn.Module,
    problem: Problem,
    batch_size: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> EvalResult:
    """Evaluate a model on the whole test set; it keeps its mode and its buffers."""
    was_training = model.training
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=device)
    count = len(problem.test)
    for index in torch.arange(count, device=device).split(batch_size):
        inputs, targets = (part.to(device) for part in problem.test.take(index))
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            outputs = model(inputs)
        outputs = widened(outputs)
        loss = problem.mean_loss.total(outputs, targets)
        right = each(problem.score(outputs, targets), len(targets)).sum()
        total += torch.stack([loss, right.to(device)])
    model.train(was_training)
    loss_sum, right_sum = total.tolist()
    return EvalResult(loss_sum / count, right_sum / count)
