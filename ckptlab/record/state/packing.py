"""Make JSON and tensors of a state that is neither, and the state of these again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ckptlab.errors import UnsupportedTensorError


def pack(value: Any, name: str, tensors: dict[str, torch.Tensor], fix: str = "") -> Any:
    """Make JSON of a state that is not a tensor; tensors within it are copied to `tensors`.

    Accepts numbers, text, None, NumPy arrays, and lists, tuples, sets, counters and dicts of these
    and of tensors, which are named after their place in `name`. Whatever JSON lacks becomes an
    object whose one key names its type. UnsupportedTensorError for anything else says the `fix`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().clone()
        return {"tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # As bytes: torch lacks some of NumPy's types.
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        tensors[name] = torch.from_numpy(data.copy())
        return {"array": [name, value.dtype.str, list(value.shape)]}
    if isinstance(value, list | tuple | set):
        items = [pack(item, f"{name}/{index}", tensors, fix) for index, item in enumerate(value)]
        return {next(t.__name__ for t in (list, tuple, set) if isinstance(value, t)): items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: pack(v, f"{name}/{key}", tensors, fix) for key, v in value.items()}}
    if isinstance(value, dict):
        items = [pack(pair, f"{name}/{i}", tensors, fix) for i, pair in enumerate(value.items())]
        return {"counter" if isinstance(value, Counter) else "items": items}
    raise UnsupportedTensorError(
        f"the state {name!r} is of type {type(value).__name__}, which cannot be stored; accepted: "
        "tensors, NumPy arrays, numbers, text, None, and lists, tuples, sets and dicts of these. "
        + (fix or "Record without the optimizer (weights only, no resume).")
    )


def unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo `pack`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        name, dtype, shape = content
        return tensors[name].numpy().view(dtype).reshape(shape).copy()
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content.items()}
    items = [unpack(item, tensors) for item in content]
    kinds: dict[str, Callable[[Any], Any]] = {
        "tuple": tuple,
        "set": set,
        "items": dict,
        "counter": lambda pairs: Counter(dict(pairs)),
    }
    return kinds[kind](items) if kind in kinds else items
