"""Models of which each process holds a part: which ranges of the parameter vector those are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ckptlab.errors import ConfigError, UnsupportedTensorError
from ckptlab.store.format.layout import Layout

_FIX = (
    "use fully_shard (FSDP2), tensor parallelism or DistributedDataParallel, or convert its "
    "checkpoints with ckptlab import"
)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranges:
    """Stretches of a vector, in order, that lie one after the other in another one."""

    starts: Indices
    lengths: Indices

    @cached_property
    def ends(self) -> Indices:
        """Where each ends in the vector."""
        return self.starts + self.lengths

    @cached_property
    def places(self) -> Indices:
        """Where each begins among them all."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def size(self) -> int:
        """Elements of all together."""
        return int(self.lengths.sum())

    def clip(self, start: int, stop: int) -> tuple[Indices, Indices, Indices]:
        """Return those between two positions: starts, places of these, lengths."""
        a = int(np.searchsorted(self.ends, start, side="right"))
        b = int(np.searchsorted(self.starts, stop, side="left"))
        starts = np.maximum(self.starts[a:b], start)
        places = self.places[a:b] + (starts - self.starts[a:b])
        lengths: Indices = np.minimum(self.ends[a:b], stop) - starts
        return starts, places.astype(np.int64), lengths

    @classmethod
    def join(cls, parts: Iterable[Ranges]) -> Ranges:
        """Return the ranges of several, which follow each other."""
        listed = list(parts)
        return cls(
            np.concatenate([part.starts for part in listed]),
            np.concatenate([part.lengths for part in listed]),
        )


@dataclass(frozen=True)
class Parts:
    """What this process holds of a model.

    Parameters
    ----------
    layout : Layout
        The tensor table of the parts.
    tensors : tuple of Tensor
        Views of the parts, which `refresh` keeps up to date, gradients included.
    ranges : tuple of Ranges
        Of each tensor, in the parameter vector of the whole model.
    model : Module
        The whole.
    parameters : tuple of Parameter
        The model's own.
    """

    layout: Layout
    tensors: tuple[torch.Tensor, ...]
    ranges: tuple[Ranges, ...]
    model: nn.Module
    parameters: tuple[nn.Parameter, ...]

    @torch.no_grad()
    def refresh(self) -> None:
        """Have the model hold its parts, and the views see them and their gradients."""
        reshard(self.model)
        for view, parameter in zip(self.tensors, self.parameters, strict=True):
            if view is parameter:
                continue
            view.data = local(parameter)
            gradient: Any = parameter.grad
            if gradient is not None and is_distributed(gradient):
                whole: Any = parameter
                if gradient.placements != whole.placements:  # still to be summed over ranks
                    gradient = gradient.redistribute(whole.device_mesh, whole.placements)
                gradient = local(gradient)
            view.grad = gradient

    def release(self) -> None:
        """Let go of gradients, which the loop may want to free before the next are seen."""
        for view, parameter in zip(self.tensors, self.parameters, strict=True):
            if view is not parameter:
                view.grad = None


def is_distributed(tensor: object) -> bool:
    """Return whether a tensor is a DTensor."""
    kind = _found("torch.distributed.tensor", "DTensor")  # what was not imported has made none
    return bool(kind) and isinstance(tensor, kind)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what of a tensor lies in this process, without waiting for others."""
    distributed: Any = tensor
    return distributed._local_tensor.detach() if is_distributed(tensor) else tensor


def whole_number(value: Any) -> Any:
    """Return a number that is spread over ranks as each of them sees it; all must ask."""
    return value.full_tensor() if is_distributed(value) else value


def like(parameter: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Make a part a tensor that is distributed as its parameter is."""
    if not is_distributed(parameter):
        return part
    from torch.distributed.tensor import DTensor

    whole: Any = parameter
    return DTensor.from_local(
        part.to(local(whole).device),
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def reshard(model: nn.Module) -> None:
    """Have modules under ``fully_shard`` hold their parts, not what a forward pass gathered."""
    kind = _found("torch.distributed.fsdp", "FSDPModule")
    for module in model.modules() if kind else ():
        if isinstance(module, kind):
            module.reshard()


def require_supported(model: nn.Module) -> bool:
    """Return whether the model is sharded; ConfigError if in a way that is not recorded."""
    fsdp = _found("torch.distributed.fsdp", "FullyShardedDataParallel")
    for _, module in model.named_modules():
        if fsdp and isinstance(module, fsdp) and module.sharding_strategy.name != "NO_SHARD":
            raise _refused(type(module).__name__, "FullyShardedDataParallel")
    reshard(model)
    sharded = False
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if getattr(tensor, "_is_flat_param", False):
            raise _refused(name, "FullyShardedDataParallel without use_orig_params=True")
        if hasattr(tensor, "ds_id"):
            raise _refused(name, "DeepSpeed ZeRO-3")
        if is_distributed(tensor):
            distributed: Any = tensor
            kinds = {type(placement).__name__ for placement in distributed.placements}
            if "Partial" in kinds or (kinds != {"Replicate"} and not _is_parameter(tensor)):
                raise _refused(name, f"a DTensor placed {distributed.placements}")
            sharded = True
    if all(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            "the model lies on the meta device and has no values yet; materialise it "
            "(model.to_empty and its initialisation) before recording it"
        )
    return sharded


def ranges_of(name: str, parameter: torch.Tensor, offset: int) -> Ranges:
    """Return which ranges of the parameter vector a parameter's part is, which begins at `offset`.

    ConfigError if its part has another shape than its placements say.
    """
    shape = tuple(parameter.shape)
    cuts: list[list[tuple[int, int]]] = [[] for _ in shape]
    if is_distributed(parameter):
        distributed: Any = parameter
        mesh = distributed.device_mesh
        strided = []
        for place, size, placement in zip(
            mesh.get_coordinate(), mesh.shape, distributed.placements, strict=True
        ):
            if type(placement).__name__ == "_StridedShard":
                strided.append((placement.dim, place, size))  # cut last, from right to left
            elif placement.is_shard():
                cuts[placement.dim].append((place, size))
        for dim, place, size in reversed(strided):
            cuts[dim].append((place, size))
    held = [_intervals(length, cut) for length, cut in zip(shape, cuts, strict=True)]
    expected = tuple(sum(b - a for a, b in intervals) for intervals in held)
    if expected != tuple(local(parameter).shape):
        found = tuple(local(parameter).shape)
        raise _refused(name, f"a part of shape {found} where {expected} was expected")
    starts, lengths = _flat(shape, held)
    return Ranges(starts + offset, lengths)


def _intervals(length: int, cuts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut a dim as `torch.chunk` does, again and again; return what is left of it."""
    held = [(0, length)]
    for place, count in cuts:
        total = sum(b - a for a, b in held)
        size = -(-total // count)
        first, last = min(place * size, total), min((place + 1) * size, total)
        left, position = [], 0
        for a, b in held:
            start, stop = max(first - position, 0), min(last - position, b - a)
            if start < stop:
                left.append((a + start, a + stop))
            position += b - a
        held = left
    return held


def _flat(shape: Sequence[int], held: list[list[tuple[int, int]]]) -> tuple[Indices, Indices]:
    """Return starts and lengths, in C order, of the ranges that a part of a tensor is."""
    cut = [d for d, intervals in enumerate(held) if intervals != [(0, shape[d])]]
    last = cut[-1] if cut else 0
    before = np.zeros(1, np.int64)
    for dim in range(last):
        index = np.concatenate([np.arange(a, b) for a, b in held[dim]] or [np.empty(0, np.int64)])
        before = (before[:, None] * shape[dim] + index).reshape(-1)
    if not shape:
        return before, np.ones(1, np.int64)
    inner = int(np.prod(shape[last + 1 :], dtype=np.int64))
    bounds = np.array(held[last], np.int64).reshape(-1, 2)
    starts = ((before[:, None] * shape[last] + bounds[:, 0]) * inner).reshape(-1)
    lengths = np.broadcast_to((bounds[:, 1] - bounds[:, 0]) * inner, (len(before), len(bounds)))
    lengths = lengths.reshape(-1)
    return starts[lengths > 0], lengths[lengths > 0]


def require_replicated(name: str, state: torch.Tensor) -> None:
    """Raise UnsupportedTensorError for a state of which each rank holds another part."""
    distributed: Any = state
    if is_distributed(state) and any(not p.is_replicate() for p in distributed.placements):
        raise UnsupportedTensorError(
            f"the state {name!r} is sharded otherwise than its parameter, and cannot be stored. "
            "Record without the optimizer (weights only, no resume)."
        )


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _found(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _refused(name: str, by: str) -> ConfigError:
    return ConfigError(f"{name!r} is sharded ({by}), which is not supported; {_FIX}")
