"""Check what a user gives the Recorder, and name the fix, before anything is written."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, SupportsFloat

import numpy as np
import torch

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.record.defaults import ARRAYS
from ckptlab.record.schedule import Schedule, parse_schedule


def check_path(path: Any) -> Any:
    """Expand ``~`` in a local path; URLs and open stores stay as they are."""
    if isinstance(path, str | os.PathLike) and "://" not in os.fspath(path):
        return str(Path(path).expanduser())
    return path


def check_steps(steps: object, steps_per_epoch: int | None) -> Schedule:
    """Read a schedule, which must be text: a bare number or a list can mean two things."""
    if isinstance(steps, str):
        return parse_schedule(steps, steps_per_epoch)
    if isinstance(steps, int) and not isinstance(steps, bool):
        accepted = f'"0:{steps}" for every step before {steps}, "{steps}" for this step alone'
    elif isinstance(steps, Iterable) and not isinstance(steps, bytes):
        accepted = f'text: "{", ".join(map(str, steps))}" for these steps alone'
    else:
        accepted = 'text such as "0:2000, 2000:20000:100" or "log:20"'
    raise ConfigError(f"steps={steps!r} is not a schedule; accepted: {accepted}")


def check_names(name: str, value: object) -> tuple[str, ...] | None:
    """Return patterns or names as a tuple; one string is one of them."""
    if value is None or isinstance(value, str):
        return None if value is None else (value,)
    if isinstance(value, Iterable):
        names = tuple(value)
        if all(isinstance(item, str) for item in names):
            return names
    raise ConfigError(f'{name}={value!r} is not accepted; accepted: strings such as ["layer1.*"]')


def check_arrays(arrays: object) -> tuple[str, ...]:
    """Return the large arrays to record."""
    names = check_names("arrays", arrays) or ()
    for name in names:
        if name not in ARRAYS:
            raise unknown_name("array", name, ARRAYS)
    return names


def check_seconds(name: str, value: object) -> float:
    """Return a time that is not negative."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not (seconds := float(value)) >= 0:  # type: ignore[arg-type]
        raise ConfigError(f"{name}={value!r} is not accepted; accepted: a number of seconds >= 0")
    return seconds


def check_count(name: str, value: object, *, least: int = 0) -> int:
    """Return a whole number of updates."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or int(value) < least:  # type: ignore[call-overload]
        raise ConfigError(f"{name}={value!r} is not accepted; accepted: a whole number >= {least}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def check_optimizer(optimizer: Any, model: torch.nn.Module) -> torch.optim.Optimizer | None:
    """Return the optimizer inside wrappers such as Accelerate's, if it trains the model."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if optimizer is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        several = isinstance(optimizer, list | tuple | dict)
        raise ConfigError(
            f"optimizer is a {type(optimizer).__name__}; accepted: one torch.optim.Optimizer or "
            + ("None (record one of them, or the weights alone)" if several else "None")
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            f"the {type(optimizer).__name__} trains no parameter of the model; give the optimizer "
            "that was made with model.parameters()"
        )
    return optimizer


def check_number(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is None or one real number."""
    # Exact types first: checking a protocol takes longer than the rest of a step.
    if value is None or type(value) in (float, int):
        return
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ConfigError(f"{name} has shape {tuple(value.shape)}; one number is needed")
    elif not isinstance(value, SupportsFloat):
        raise ConfigError(f"{name} is a {type(value).__name__}; one number is needed")


def plain(value: Any) -> Any:
    """Return settings as JSON has them: paths as text, NumPy numbers as numbers, objects as dicts.

    Takes namespaces, dataclasses, pydantic models and mappings; leaves alone what it does not know.
    """
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif callable(dump := getattr(value, "model_dump", None)):
        value = dump()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, PurePath | torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    return value


def plain_mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a user's settings as a JSON object; None gives an empty one."""
    result = {} if value is None else plain(value)
    if not isinstance(result, dict):
        raise ConfigError(
            f"{name} is a {type(value).__name__}; accepted: a mapping, a namespace or a dataclass"
        )
    return result
