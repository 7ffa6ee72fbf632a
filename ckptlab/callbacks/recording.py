"""What the callbacks of all libraries share: a recorder that follows a trainer's checkpoints."""

from __future__ import annotations

from typing import Any

from ckptlab.errors import ConfigError
from ckptlab.record.recorder import Recorder


def open_recorder(
    path: Any, model: Any, optimizer: Any, step: int, options: dict[str, Any]
) -> Recorder:
    """Open a recorder at the step that a trainer is at, which has restored everything itself.

    A training from its start begins a new run. One that goes on from a checkpoint continues the run
    at that step, or begins one there if there is none.
    """
    if not optimizer:
        raise ConfigError(
            "the trainer has no optimizer, so there are no updates to record; give it one before "
            "it trains"
        )
    at_start = step == 0 and options.get("resume") != "auto"
    if not at_start:
        # What is written over at the start is what a later checkpoint goes on with.
        options = {**options, "resume": "auto", "at": step, "start": step, "overwrite": False}
    return Recorder(path, model, optimizer, **options).open()


class MeanLoss:
    """The loss of an update, from those of its micro-batches."""

    def __init__(self) -> None:
        self._total: Any = None
        self._count = 0

    def add(self, loss: Any) -> None:
        """Add the loss of a micro-batch, without waiting for its device."""
        if loss is not None:
            loss = loss.detach()
            self._total = loss if self._total is None else self._total + loss
            self._count += 1

    def take(self, *, mean: bool) -> Any:
        """Return the mean or the sum since the last call, None if there was no loss."""
        total, count = self._total, self._count
        self._total, self._count = None, 0
        return total / count if mean and count else total
