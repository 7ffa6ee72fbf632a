"""Watch optimizers through their step hooks: count updates, see learning rates and skips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, NamedTuple

import torch

Number = float | torch.Tensor


class Seen(NamedTuple):
    """What was seen of the updates since the last recorder step."""

    lr: Number | None
    """Of the first optimizer's first group."""
    skipped: bool | torch.Tensor
    """Whether every optimizer's update was skipped."""
    taken: bool
    """Whether gradients that were taken before an update belong to this step."""
    scalars: dict[str, Number]
    """Rates of further groups; of several optimizers also whose update was skipped."""


class UpdateWatch:
    """Hooks on the steps of optimizers, each of which is recorded if `due` returns True."""

    def __init__(self, due: Callable[[], bool]) -> None:
        self.updating = False
        self.due = due
        self._watched: list[_Watched] = []

    @property
    def attached(self) -> bool:
        """Whether there is an optimizer to watch."""
        return bool(self._watched)

    @property
    def ahead(self) -> bool:
        """Whether an optimizer has moved, or may have, since the last `finish_step`."""
        return self.updating or any(one.updates for one in self._watched)

    def attach(
        self, optimizers: Mapping[str, torch.optim.Optimizer], take_gradients: Callable[[str], None]
    ) -> None:
        """Register the hooks; `take_gradients` is called before each update that is recorded.

        It is given the optimizer's name. Some optimizers write into the gradients.
        """
        self._watched = [
            _Watched(self, name, optimizer, take_gradients)
            for name, optimizer in optimizers.items()
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for one in self._watched:
            one.remove()
        self._watched = []

    def finish_step(self) -> Seen:
        """Return what was seen, and start over."""
        self.updating = False
        if not self._watched:
            return Seen(None, False, False, {})
        updates = [one.updates for one in self._watched]
        skips = [one.finish() for one in self._watched]
        scalars: dict[str, Number] = {}
        for one, skipped in zip(self._watched, skips, strict=True):
            scalars |= one.scalars(skipped)
        first, several = self._watched[0], len(updates) > 1
        taken = any(updates) if several else updates == [1]
        lr = first.rates[0] if first.rates else None
        return Seen(lr, _all(skips) if several else skips[0], taken, scalars)


class _Watched:
    """One optimizer, and what was seen of it."""

    def __init__(
        self,
        watch: UpdateWatch,
        name: str,
        optimizer: torch.optim.Optimizer,
        take_gradients: Callable[[str], None],
    ) -> None:
        self.updates = 0
        self.rates = _rates(optimizer)
        self._watch = watch
        self._name = name
        self._optimizer = optimizer
        self._take_gradients = take_gradients
        self._found_inf: torch.Tensor | None = None
        # Within a CUDA graph no hook runs; `capturable` says that there may be one.
        self._graphed = any(group.get("capturable") for group in optimizer.param_groups)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_update),
            optimizer.register_step_post_hook(self._after_update),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def finish(self) -> bool | torch.Tensor:
        """Return whether its update was skipped, and start over."""
        updates, self.updates = self.updates, 0
        if self._graphed and not updates:
            self.rates = _rates(self._optimizer)
        if updates and self._found_inf is not None:
            return self._found_inf
        return not updates and not self._graphed

    def scalars(self, skipped: bool | torch.Tensor) -> dict[str, Number]:
        """Name the rates that are not the run's `lr`, and, of several optimizers, the skip."""
        name = f"lr_{self._name}" if self._name else "lr"
        further = {f"{name}_{i}": rate for i, rate in enumerate(self.rates) if i}
        if self._name:
            further[f"skipped_{self._name}"] = skipped
            further |= dict(zip((name,), self.rates, strict=False))
        return further

    def _before_update(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._watch.updating = True
        if _capturing():
            self._graphed = True
            return None
        # A fused optimizer under a GradScaler unscales gradients itself, in place.
        if getattr(optimizer, "grad_scale", None) is not None or not self._watch.due():
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._take_gradients(self._name)
            return None
        calls = count()

        def evaluate() -> Any:
            loss = closure()
            if next(calls) == 0:
                self._take_gradients(self._name)
            return loss

        return args[:1], {**kwargs, "closure": evaluate}

    def _after_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._watch.updating = False
        if _capturing():
            return
        self.updates += 1
        # Read here, since a scheduler may have moved on by the time the recorder's step is called.
        self.rates = _rates(optimizer)
        # A fused optimizer is stepped by a GradScaler at every update, and skips it on the device.
        self._found_inf = getattr(optimizer, "found_inf", None)


def _all(skips: list[bool | torch.Tensor]) -> bool | torch.Tensor:
    """Return whether all are true, without waiting for those that lie on a device."""
    unknown = [skip.reshape(1) for skip in skips if isinstance(skip, torch.Tensor)]
    if not unknown or any(skip is False for skip in skips):
        return all(skip is True for skip in skips)
    return torch.cat(unknown).min()


def _rates(optimizer: torch.optim.Optimizer) -> list[Number]:
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    return [rate.detach().clone() if isinstance(rate, torch.Tensor) else rate for rate in rates]


def _capturing() -> bool:
    """Return whether a CUDA graph is being captured: a copy made now would be repeated by it."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
