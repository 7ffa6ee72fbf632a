"""What a tensor is, told from its name and shape alone: for checkpoints, which hold no modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ckptlab.errors import DataError, UnsupportedTensorError
from ckptlab.record.convert.readers.pickles import lazy_tensor
from ckptlab.record.convert.tensors import LazyTensor
from ckptlab.record.state.kinds import is_buffer, kind_of
from ckptlab.store.format.layout import BUFFER_DTYPES, PARAMETER_DTYPES, Buffer, Layout, Tensor

_FIX = "Convert it, or take it out of the checkpoints."
_SINGLE = ("float32", "float16", "bfloat16")  # what float32 holds exactly


def layout_of(state: Mapping[str, torch.Tensor | LazyTensor]) -> Layout:
    """Describe the tensors of a state dict.

    Parameters
    ----------
    state : mapping of str to Tensor or LazyTensor
        By name, in the order of the model. Tensors that are one in memory are tied.

    Returns
    -------
    Layout
        Batch norm's statistics, and what float32 cannot hold, are buffers; the rest parameters.
        In a model of float64, its tensors are both: a parameter, rounded to float32 to be
        measured, and a buffer of the same name, exact.

    Raises
    ------
    UnsupportedTensorError
        If one cannot be stored exactly.
    DataError
        If there is no parameter.
    """
    tensors = {n: lazy_tensor(t) if isinstance(t, torch.Tensor) else t for n, t in state.items()}
    kept_aside = {name for name in tensors if is_buffer(name, tensors)}
    types = {t.dtype for name, t in tensors.items() if name not in kept_aside and t.size}
    accepted = {*PARAMETER_DTYPES} - ({"float64"} if types & {*_SINGLE} else set())
    rows: list[Tensor] = []
    buffers: list[Buffer] = []
    ends: dict[str, int] = {}
    for name, *aliases in _tied(tensors):
        tensor = tensors[name]
        _require_storable(name, tensor)
        parameter = name not in kept_aside and tensor.dtype in accepted
        shape, dtype, tied = tensor.shape, tensor.dtype, tuple(aliases)
        if parameter:
            kinds = [kind_of(each, tensors) for each in (name, *aliases)]
            # And a head, where they are tied.
            kind = "embedding" if "embedding" in kinds else kinds[0]
            rows.append(
                Tensor(
                    name=name,
                    shape=shape,
                    offset=ends.get("weights", 0),
                    dtype=dtype,
                    kind=kind,
                    prunable=kind in ("conv", "linear"),
                    aliases=tied,
                )
            )
            ends["weights"] = ends.get("weights", 0) + tensor.size
        if not parameter or dtype == "float64":
            array = "buffers" if dtype in _SINGLE else f"buffers_{dtype}"
            at = ends.get(array, 0)
            ends[array] = at + tensor.size
            buffers.append(
                Buffer(name=name, shape=shape, offset=at, dtype=dtype, array=array, aliases=tied)
            )
    if not ends.get("weights"):
        raise DataError(
            f"the first checkpoint holds no parameter of type {', '.join(PARAMETER_DTYPES)}"
        )
    return Layout(tuple(rows), tuple(buffers))


def _tied(tensors: Mapping[str, LazyTensor]) -> list[list[str]]:
    """Group the names of each tensor."""
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        identity = id(tensor) if tensor.identity is None else tensor.identity
        groups.setdefault(identity, []).append(name)
    return [*groups.values()]


def _require_storable(name: str, tensor: LazyTensor) -> None:
    accepted = {*PARAMETER_DTYPES, *BUFFER_DTYPES}
    if tensor.flaw or tensor.dtype not in accepted:
        said = f"{tensor.dtype}, {tensor.flaw}" if tensor.flaw else tensor.dtype
        raise UnsupportedTensorError(
            f"tensor {name!r} ({said}) cannot be stored exactly; accepted: dense "
            f"{', '.join(sorted(accepted))}. {_FIX}"
        )
