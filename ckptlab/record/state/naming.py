"""Name what a model holds without the wrappers around it and its modules."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes that hold a module inside torch.compile, FSDP and activation checkpointing."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile, (Distributed)DataParallel and the like."""
    while True:
        inner = next((m for key, m in model._modules.items() if key in _WRAPPED), None)
        if inner is None and isinstance(model, _PARALLEL):
            inner = model.module
        if inner is None:
            return model
        model = inner


def module_names(model: nn.Module) -> dict[str, str]:
    """Map the name of every module to its name without the wrappers on the way to it."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names = {"": ""}
    for raw in modules:
        if raw:
            parent, _, key = raw.rpartition(".")
            wrapped = key in _WRAPPED or (
                key == "module" and isinstance(modules[parent], _PARALLEL)
            )
            names[raw] = names[parent] if wrapped else f"{names[parent]}.{key}".lstrip(".")
    return names


def clean(names: dict[str, str], raw: str) -> str:
    """Return a tensor's name without wrappers; `names` are those of the modules."""
    prefix, _, key = raw.rpartition(".")
    return f"{names[prefix]}.{key}".lstrip(".")


def all_parameters(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """List the parameters, under each of their names."""
    return model.named_parameters(remove_duplicate=False)


def persistent_buffers(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """List the persistent buffers, under each of their names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{key}" if prefix else key), buffer


def aliases_of(
    names: dict[str, str], named: Iterable[tuple[str, torch.Tensor]]
) -> dict[int, list[str]]:
    """Return all names of each tensor, by its id."""
    found: dict[int, list[str]] = {}
    for raw, tensor in named:
        found.setdefault(id(tensor), []).append(clean(names, raw))
    return found
