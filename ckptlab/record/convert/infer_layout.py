"""What a tensor is, told from its name and shape alone: for checkpoints, which hold no modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ckptlab.errors import DataError
from ckptlab.record.state.kinds import is_buffer, kind_of
from ckptlab.record.state.model_tensors import (
    EXACT_IN_FLOAT32,
    OWN_DTYPE,
    dtype_name,
    require_exact,
)
from ckptlab.store.format.layout import Buffer, Layout, Tensor

_FIX = "Convert it, or take it out of the checkpoints."


def layout_of(state: Mapping[str, torch.Tensor]) -> Layout:
    """Describe the tensors of a state dict.

    Parameters
    ----------
    state : mapping of str to Tensor
        By name, in the order of the model. Tensors that are one in memory are tied.

    Returns
    -------
    Layout
        Batch norm's statistics, and what float32 cannot hold, are buffers; the rest parameters.

    Raises
    ------
    UnsupportedTensorError
        If one cannot be stored exactly.
    DataError
        If there is no parameter.
    """
    tied: dict[object, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(_identity(name, tensor), []).append(name)
    tensors: list[Tensor] = []
    buffers: list[Buffer] = []
    ends: dict[str, int] = {}
    for name, *aliases in tied.values():
        tensor = state[name]
        require_exact("tensor", name, tensor, EXACT_IN_FLOAT32 | OWN_DTYPE, _FIX)
        shape, dtype = tuple(tensor.shape), dtype_name(tensor)
        exact = tensor.dtype in EXACT_IN_FLOAT32
        kept_aside = not exact or is_buffer(name, state)
        array = "weights" if not kept_aside else "buffers" if exact else f"buffers_{dtype}"
        offset = ends.get(array, 0)
        ends[array] = offset + tensor.numel()
        if kept_aside:
            buffers.append(
                Buffer(
                    name=name,
                    shape=shape,
                    offset=offset,
                    dtype=dtype,
                    array=array,
                    aliases=tuple(aliases),
                )
            )
            continue
        kinds = [kind_of(each, state) for each in (name, *aliases)]
        kind = "embedding" if "embedding" in kinds else kinds[0]  # and a head, where they are tied
        tensors.append(
            Tensor(
                name=name,
                shape=shape,
                offset=offset,
                dtype=dtype,
                kind=kind,
                prunable=kind in ("conv", "linear"),
                aliases=tuple(aliases),
            )
        )
    if not ends.get("weights"):
        raise DataError(
            "the first checkpoint holds no parameter of type float32, float16, bfloat16"
        )
    return Layout(tuple(tensors), tuple(buffers))


def _identity(name: str, tensor: torch.Tensor) -> object:
    """Return what tied tensors have in common."""
    if not tensor.numel() or tensor.layout != torch.strided:
        return name
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
