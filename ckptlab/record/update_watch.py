"""Watch an optimizer through its step hooks: count updates, see their learning rate and skips."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import torch

Number = float | torch.Tensor


class Seen(NamedTuple):
    """What was seen of the updates since the last recorder step."""

    lr: Number | None
    skipped: bool | torch.Tensor
    single: bool
    """Whether there was exactly one update: gradients taken before it belong to this step."""


class UpdateWatch:
    """Hooks on the steps of an optimizer, each of which is recorded if `due` returns True."""

    def __init__(self, due: Callable[[], bool]) -> None:
        self.updating = False
        self._due = due
        self._take_gradients: Callable[[], None]
        self._optimizer: torch.optim.Optimizer | None = None
        self._hooks: list[Any] = []
        self._updates = 0
        self._graphed = False
        self._lr: Number | None = None
        self._found_inf: torch.Tensor | None = None

    @property
    def attached(self) -> bool:
        """Whether there is an optimizer to watch."""
        return bool(self._hooks)

    @property
    def ahead(self) -> bool:
        """Whether the optimizer has moved, or may have, since the last `finish_step`."""
        return self.updating or self._updates > 0

    def attach(
        self, optimizer: torch.optim.Optimizer | None, take_gradients: Callable[[], None]
    ) -> None:
        """Register the hooks; `take_gradients` is called before each update that is recorded.

        Some optimizers write into the gradients.
        """
        if optimizer is None:
            return
        self._take_gradients = take_gradients
        self._optimizer = optimizer
        # Within a CUDA graph no hook runs; `capturable` says that there may be one.
        self._graphed = any(group.get("capturable") for group in optimizer.param_groups)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_update),
            optimizer.register_step_post_hook(self._after_update),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def finish_step(self) -> Seen:
        """Return what was seen, and start over."""
        updates, self._updates, self.updating = self._updates, 0, False
        skipped: bool | torch.Tensor = self.attached and not updates and not self._graphed
        if updates and self._found_inf is not None:
            skipped = self._found_inf
        if self._graphed and not updates and self._optimizer is not None:
            self._lr = _rate(self._optimizer)
        return Seen(self._lr, skipped, updates == 1)

    def _before_update(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.updating = True
        if _capturing():
            self._graphed = True
            return None
        # A fused optimizer under a GradScaler unscales gradients itself, in place.
        if getattr(optimizer, "grad_scale", None) is not None or not self._due():
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._take_gradients()
            return None
        calls = count()

        def evaluate() -> Any:
            loss = closure()
            if next(calls) == 0:
                self._take_gradients()
            return loss

        return args[:1], {**kwargs, "closure": evaluate}

    def _after_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.updating = False
        if _capturing():
            return
        self._updates += 1
        # Read here, since a scheduler may have moved on by the time the recorder's step is called.
        self._lr = _rate(optimizer)
        # A fused optimizer is stepped by a GradScaler at every update, and skips it on the device.
        self._found_inf = getattr(optimizer, "found_inf", None)


def _rate(optimizer: torch.optim.Optimizer) -> Number:
    rate: Number = optimizer.param_groups[0]["lr"]
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate


def _capturing() -> bool:
    """Return whether a CUDA graph is being captured: a copy made now would be repeated by it."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
