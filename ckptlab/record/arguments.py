"""Check what a user gives the Recorder, and name the fix, before anything is written."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, SupportsFloat

import numpy as np
import torch

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.record.defaults import ARRAYS, AUTO
from ckptlab.record.schedule import Schedule, parse_schedule
from ckptlab.store.format.codecs import require_public
from ckptlab.store.format.schema import is_scalar_name

Optimizers = (
    torch.optim.Optimizer
    | Sequence[torch.optim.Optimizer]
    | Mapping[str, torch.optim.Optimizer]
    | None
)
"""What trains a model, as users give it."""


def check_codec(codec: str) -> None:
    """Raise UnknownNameError unless it is a codec that users choose, or ``auto``."""
    if codec != AUTO:
        require_public(codec)


def check_resume(resume: Any, at: Any, *, overwrite: bool) -> bool | str:
    """Return whether a run is resumed, ``auto`` where that depends on what is there."""
    if resume not in (True, False, "auto"):
        raise ConfigError(f"resume={resume!r} is not accepted; accepted: True, False, 'auto'")
    if resume and overwrite:
        raise ConfigError(f"resume={resume!r} goes on with the run that overwrite=True replaces")
    if at is not None and not resume:
        raise ConfigError(f"at={at!r} is a step of a run that is resumed; give resume=True, too")
    if at is not None:
        check_count("at", at)
    return resume if resume == "auto" else bool(resume)


def check_ranks(ranks: object, *, sharded: bool = False) -> str:
    """Return which of several processes record: ``first`` or ``each``."""
    if ranks not in ("first", "each"):
        raise ConfigError(f"ranks={ranks!r} is not accepted; accepted: 'first', 'each'")
    if sharded and ranks == "each":
        raise ConfigError(
            "ranks='each' is not accepted of a sharded model, of which each rank holds a part; "
            "leave it out"
        )
    return str(ranks)


def check_path(path: Any) -> Any:
    """Expand ``~`` in a local path; URLs and open stores stay as they are."""
    if isinstance(path, str | os.PathLike) and "://" not in os.fspath(path):
        return str(Path(path).expanduser())
    return path


def check_steps(steps: object, steps_per_epoch: int | None, name: str = "steps") -> Schedule:
    """Read a schedule, which must be text: a bare number or a list can mean two things."""
    if isinstance(steps, str):
        return parse_schedule(steps, steps_per_epoch)
    if isinstance(steps, int) and not isinstance(steps, bool):
        accepted = f'"0:{steps}" for every step before {steps}, "{steps}" for this step alone'
    elif isinstance(steps, Iterable) and not isinstance(steps, bytes):
        accepted = f'text: "{", ".join(map(str, steps))}" for these steps alone'
    else:
        accepted = 'text such as "0:2000, 2000:20000:100" or "log:20"'
    raise ConfigError(f"{name}={steps!r} is not a schedule; accepted: {accepted}")


def check_observe(
    observe: Any, steps_per_epoch: int | None, schedule: Schedule, start: int
) -> Schedule | None:
    """Read at which steps the weights are observed; they are compared with the initial ones."""
    if observe is None or observe is False:
        return None
    observed = check_steps("0:" if observe is True else observe, steps_per_epoch, "observe")
    for name, given in (("observe", observed), ("steps", schedule)):
        if start not in given:
            raise ConfigError(
                f"observe={observed.text!r} compares with step {start}, which {name}="
                f"{given.text!r} leaves out; add it, such as {name}='{start}, {given.text}'",
                parameter="observe",
            )
    return observed


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


def check_optimizers(given: Any, model: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers by name, without wrappers such as Accelerate's.

    One alone has an empty name, those of a list have their positions.
    """
    if given is None:
        return {}
    if not isinstance(given, list | tuple | Mapping):
        return {"": _check_optimizer(given, model)}
    named = given if isinstance(given, Mapping) else dict(enumerate(given))
    found = {
        _check_name(name): _check_optimizer(optimizer, model, str(name))
        for name, optimizer in named.items()
    }
    if not found or len({id(optimizer) for optimizer in found.values()}) < len(found):
        raise ConfigError(
            f"optimizer={{{', '.join(found)}}} names no optimizer, or one twice; accepted: one "
            "optimizer, or several different ones in a list or dict"
        )
    return found


def _check_name(name: object) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,50}", str(name)):
        return str(name)
    raise ConfigError(
        f"optimizer {name!r} has a name that is not accepted; accepted: letters, digits, _ and -"
    )


def _check_optimizer(optimizer: Any, model: torch.nn.Module, name: str = "") -> Any:
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    called = f"optimizer {name!r}" if name else "optimizer"
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"{called} is of type {type(optimizer).__name__}; accepted: a torch.optim.Optimizer, "
            "a list or dict of them, or None"
        )
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        raise ConfigError(
            f"{called} is a ZeroRedundancyOptimizer, of whose state each rank holds a part; give "
            "None (weights only, no resume), or use an optimizer that is not sharded"
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            f"the {type(optimizer).__name__}{f' ({name})' if name else ''} trains no parameter of "
            "the model; give the optimizer that was made with model.parameters()"
            + (", and a model that holds all networks, such as nn.ModuleDict" if name else "")
        )
    return optimizer


def check_scalars(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the numbers that a loop logs, by name; None stands for one that is not there."""
    for name, value in values.items():
        # Checked once a name: what is known was accepted.
        if name not in _scalar_names:
            if not is_scalar_name(name):
                raise ConfigError(
                    f"{name!r} is not accepted as the name of a number to log; accepted: up to 100 "
                    "letters, digits, _, - and . that are not the name of a recorded array"
                )
            _scalar_names.add(name)
        check_number(name, value)
    return {name: value for name, value in values.items() if value is not None}


_scalar_names: set[str] = set()


def check_number(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is None or one real number."""
    # Exact types first: checking a protocol takes longer than the rest of a step.
    if value is None or type(value) in (float, int):
        return
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ConfigError(f"{name} has shape {tuple(value.shape)}; one number is needed")
    elif not isinstance(value, SupportsFloat):
        raise ConfigError(f"{name} is of type {type(value).__name__}; one number is needed")


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
            f"{name} is of type {type(value).__name__}; accepted: a mapping, a namespace or a "
            "dataclass"
        )
    return result
