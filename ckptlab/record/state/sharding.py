"""Refuse models of which one process holds a part only, on every process alike."""

from __future__ import annotations

import sys
from itertools import chain
from typing import Any

from torch import nn

from ckptlab.errors import ConfigError

_FIX = (
    "record it unsharded (DistributedDataParallel or one process), or convert its checkpoints with "
    "ckptlab import"
)


def require_whole(model: nn.Module) -> None:
    """Raise ConfigError if tensors of the model are cut up between processes, or have no values."""
    # What was not imported has made no model.
    fsdp = _found("torch.distributed.fsdp", "FullyShardedDataParallel")
    dtensor = _found("torch.distributed.tensor", "DTensor")
    for _, module in model.named_modules():
        if fsdp and isinstance(module, fsdp) and module.sharding_strategy.name != "NO_SHARD":
            raise _sharded(type(module).__name__, "FullyShardedDataParallel")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if dtensor and isinstance(tensor, dtensor):
            raise _sharded(name, "DTensor, by fully_shard or tensor parallelism")
        if getattr(tensor, "_is_flat_param", False):
            raise _sharded(name, "FullyShardedDataParallel without use_orig_params=True")
        if hasattr(tensor, "ds_id"):
            raise _sharded(name, "DeepSpeed ZeRO-3")
    if all(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            "the model lies on the meta device and has no values yet; materialise it "
            "(model.to_empty and its initialisation) before recording it"
        )


def _found(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _sharded(name: str, by: str) -> ConfigError:
    return ConfigError(
        f"{name!r} is sharded ({by}), and recording sharded models is not supported; {_FIX}"
    )
