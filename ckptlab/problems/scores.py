"""Score outputs against targets: a mean loss, and what a problem counts as accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ckptlab.errors import ConfigError

Accuracy = Callable[[Any, Any], torch.Tensor]
"""``f(outputs, targets)`` returns one value per example, or several that are averaged."""


class MeanLoss(nn.Module):
    """A loss averaged over the examples of a batch, whatever its own reduction.

    `loss(outputs, targets)` returns a mean, a sum if its `reduction` says so, or one value per
    example; None is cross-entropy.
    """

    reduction = "mean"

    def __init__(self, loss: Any = None) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        if not callable(self.loss):
            raise ConfigError(f"loss is {loss!r:.80}; it must be called as loss(outputs, targets)")

    @property
    def name(self) -> str:
        """Name of the function or class."""
        return str(getattr(self.loss, "__name__", type(self.loss).__name__))

    @property
    def units(self) -> str:
        """``nats`` for minus a log-probability, else ``loss``."""
        known = isinstance(self.loss, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss | nn.NLLLoss)
        return "nats" if known or self.is_cross_entropy else "loss"

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it is minus the log-probability of the target under a softmax."""
        plain = type(self.loss) is nn.CrossEntropyLoss and (
            self.loss.weight is None and not self.loss.label_smoothing
        )
        return plain or self.loss is nn.functional.cross_entropy

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, shape ()."""
        value: torch.Tensor = self.loss(outputs, targets)
        if value.ndim:
            return value.mean()
        return value / len(targets) if getattr(self.loss, "reduction", "") == "sum" else value

    def total(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the sum over the examples of a batch, float64 of shape ()."""
        if self.is_cross_entropy and targets.ndim == 1:
            # The mean is rounded once more.
            total = nn.functional.cross_entropy(outputs, targets, reduction="sum").double()
        else:
            total = len(targets) * self(outputs, targets).double()
        return total


def class_axis(outputs: torch.Tensor, targets: Any) -> int | None:
    """Return which axis of the outputs is over classes; None if the targets are not classes.

    The second, as in torch's cross-entropy, or the last.
    """
    whole = isinstance(targets, torch.Tensor) and not targets.is_floating_point()
    if whole and outputs.ndim == targets.ndim + 1:
        if (outputs.shape[0], *outputs.shape[2:]) == targets.shape:
            return 1
        if outputs.shape[:-1] == targets.shape:
            return -1
    return None


def right_answers(outputs: Any, targets: Any) -> torch.Tensor:
    """Return whether each answer is right, where targets are classes; else NaN, shape ().

    Classes are along the axis that `class_axis` finds.
    """
    axis = class_axis(outputs, targets) if isinstance(outputs, torch.Tensor) else None
    if axis is None:
        return no_accuracy(outputs, targets)
    return torch.eq(outputs.argmax(axis), targets)


def right_labels(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each label of each example is right, where outputs are logits of 0 or 1."""
    return (outputs > 0) == (targets > 0.5)


def each(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return one value per example, float64 of shape (count,), of what an accuracy returned."""
    values = values.detach().double()
    return values.reshape(count, -1).mean(1) if values.ndim else values.expand(count)


def widened(outputs: Any) -> Any:
    """Return outputs of low precision in float32."""
    low = isinstance(outputs, torch.Tensor) and outputs.dtype in (torch.bfloat16, torch.half)
    return outputs.float() if low else outputs


def no_accuracy(outputs: Any, targets: Any) -> torch.Tensor:
    """Return NaN, shape ()."""
    del targets
    return torch.full((), torch.nan, device=getattr(outputs, "device", None))


class TokenCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of logits (batch, time, vocabulary) against tokens (batch, time)."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over tokens, shape ()."""
        return super().forward(outputs.flatten(0, -2), targets.flatten())
