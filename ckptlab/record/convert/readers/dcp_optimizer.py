"""Put the states of optimizers in a DCP checkpoint together, as ``state_dict()`` gives them.

DCP stores each value under its keys: ``optimizer, state, 0, exp_avg``. Parameters are numbers, or
names as `torch.distributed.checkpoint.state_dict` makes them; it also joins keys with dots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptlab.record.convert.choose_weights import OPTIMIZER
from ckptlab.record.convert.tensors import LazyTensor

if TYPE_CHECKING:
    import torch

Value = LazyTensor | Callable[[], Any]
"""A tensor, or what reads a value that is none."""

_PARTS = ("state", "param_groups")


def place_in_optimizer(keys: Sequence[Any]) -> tuple[str, tuple[str, ...]] | None:
    """Split keys into an optimizer's and the rest of them; None if they lead to no optimizer."""
    words = [str(key) for key in keys]
    for at, word in enumerate(words):
        if OPTIMIZER.fullmatch(word):
            part, *rest = words[at + 1 :] or [""]
            if part.startswith(tuple(f"{name}." for name in _PARTS)):
                part, _, joined = part.partition(".")
                rest = [*joined.rpartition(".")[::2]]
            if part in _PARTS and len(rest) == 2:
                return ".".join(words[: at + 1]), (part, *rest)
    return None


def read_optimizers(entries: Iterable[tuple[Sequence[Any], Value]]) -> list[dict[str, Any]]:
    """Return the optimizers whose values are given by their keys."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for keys, value in entries:
        if place := place_in_optimizer(keys):
            name, (part, owner, key) = place
            parts = found.setdefault(name, {each: {} for each in _PARTS})
            held = _tensor(value) if isinstance(value, LazyTensor) else value()
            parts[part].setdefault(owner, {})[key] = held
    return [_state_dict(parts["state"], parts["param_groups"]) for parts in found.values()]


def _state_dict(
    states: dict[str, dict[str, Any]], settings: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    groups: list[dict[str, Any]] = []
    for owner, options in settings.items():
        if "params" in options:
            groups.append(options)
            continue
        # Joined with dots, settings are each parameter's: those of the same are a group.
        same = next((g for g in groups if _options(g) == _options(options)), None)
        if same is None:
            groups.append({**options, "params": [owner]})
        else:
            same["params"].append(owner)
    known = {str(key): key for group in groups for key in group["params"]}
    return {
        "state": {known[owner]: values for owner, values in states.items()},
        "param_groups": groups,
    }


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _tensor(value: LazyTensor) -> torch.Tensor:
    import torch

    held = np.ascontiguousarray(value.elements(0, value.size)).reshape(value.shape)
    bits = torch.from_numpy(held.view(np.int16) if value.dtype == "bfloat16" else held)
    return bits.view(torch.bfloat16) if value.dtype == "bfloat16" else bits
