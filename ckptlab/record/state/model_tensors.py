"""What of a model is recorded: its parameters and persistent buffers, in order, by clean names.

Knows modules of torch by type only, to tell a convolution from a norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import nn

from ckptlab.errors import ConfigError, RecordingError, UnsupportedTensorError
from ckptlab.store.format.layout import Buffer, Layout, Tensor

EXACT_IN_FLOAT32 = {torch.float32, torch.float16, torch.bfloat16}
"""Types that are stored as float32."""

OWN_DTYPE = {
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}
"""Types of buffers that are stored as they are."""

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Capture:
    """The live tensors of a model beside the layout that describes them.

    Parameters
    ----------
    layout : Layout
        The tensor table.
    parameters : tuple of Parameter
        In the order of ``layout.tensors``.
    buffers : dict of str to tuple of Tensor
        By buffer array, in the order of ``layout.buffers``.
    complete : bool
        Whether every trainable parameter is recorded.
    model : Module
        That they belong to, without wrappers.
    """

    layout: Layout
    parameters: tuple[nn.Parameter, ...]
    buffers: dict[str, tuple[torch.Tensor, ...]]
    complete: bool
    model: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.parameters[0].device

    @cached_property
    def _owners(self) -> dict[str, nn.Module]:
        """The module of each recorded tensor, by the module's name."""
        prefixes = dict.fromkeys(row.name.rpartition(".")[0] for row in self.layout.rows)
        return {prefix: self.model.get_submodule(prefix) for prefix in prefixes}

    @cached_property
    def _places(self) -> dict[str, list[tuple[nn.Module, str, str, torch.Tensor]]]:
        places: dict[str, list[tuple[nn.Module, str, str, torch.Tensor]]] = {}
        for array, tensors in self.buffers.items():
            rows = [row for row in self.layout.buffers if row.array == array]
            for row, tensor in zip(rows, tensors, strict=True):
                prefix, _, key = row.name.rpartition(".")
                places.setdefault(array, []).append((self._owners[prefix], key, row.name, tensor))
        return places

    def live_buffers(self, array: str) -> list[torch.Tensor]:
        """Look up the buffers of an array as they are now: modules assign new ones to them.

        Parameters
        ----------
        array : str
            Buffer array.

        Returns
        -------
        list of Tensor
            In the order of ``layout.buffers``.

        Raises
        ------
        RecordingError
            If one has become something else than was recorded so far.
        """
        found = []
        for module, key, name, known in self._places[array]:
            tensor = module._buffers.get(key)
            if tensor is not known and (tensor is None or _form(tensor) != _form(known)):
                now = "is gone" if tensor is None else f"became {_form(tensor)}"
                raise RecordingError(f"buffer {name!r} was {_form(known)} and {now}")
            found.append(tensor)
        return found

    def require_unchanged(self) -> None:
        """Raise RecordingError unless the model still trains the tensors that are recorded."""
        for prefix, module in self._owners.items():
            try:
                same = self.model.get_submodule(prefix) is module
            except AttributeError:
                same = False
            if not same:
                raise _replaced("module", prefix)
        for row, parameter in zip(self.layout.tensors, self.parameters, strict=True):
            prefix, _, key = row.name.rpartition(".")
            if self._owners[prefix]._parameters.get(key) is not parameter:
                raise _replaced("parameter", row.name)


def capture(
    model: nn.Module,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Capture:
    """List what is recorded of a model.

    Parameters
    ----------
    model : Module
        May be compiled or wrapped in DistributedDataParallel.
    include, exclude : sequence of str, optional
        Patterns (``fnmatch``) on names; what is included and not excluded is recorded.

    Returns
    -------
    Capture
        Parameters and buffers, tied ones once.

    Raises
    ------
    UnsupportedTensorError
        If a parameter or buffer cannot be stored exactly.
    ConfigError
        If nothing is left to record, or parameters lie on several devices.
    """
    bare = unwrap(model)

    def wanted(name: str) -> bool:
        included = include is None or any(fnmatchcase(name, pattern) for pattern in include)
        return included and not any(fnmatchcase(name, pattern) for pattern in exclude or ())

    kinds = _kinds(bare)
    aliases = _aliases(bare.named_parameters(remove_duplicate=False))
    tensors: list[Tensor] = []
    parameters: list[nn.Parameter] = []
    complete, offset = True, 0
    for name, parameter in bare.named_parameters():
        if not wanted(name):
            complete &= not parameter.requires_grad
            continue
        require_exact("parameter", name, parameter, EXACT_IN_FLOAT32)
        kind = kinds.get(name, "other")
        tensors.append(
            Tensor(
                name=name,
                shape=tuple(parameter.shape),
                offset=offset,
                dtype=dtype_name(parameter),
                kind=kind,
                trainable=parameter.requires_grad,
                prunable=kind in ("conv", "linear"),
                aliases=tuple(aliases[id(parameter)][1:]),
            )
        )
        parameters.append(parameter)
        offset += parameter.numel()
    if not offset:
        raise ConfigError(
            f"no parameter of {type(bare).__name__} is left to record; check include= and exclude="
        )
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ConfigError(f"parameters lie on several devices ({names}); one is supported")
    rows, buffers = _buffers(bare, wanted)
    layout = Layout(tuple(tensors), tuple(rows))
    return Capture(layout, tuple(parameters), buffers, complete, bare)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile and (Distributed)DataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _buffers(
    model: nn.Module, wanted: Callable[[str], bool]
) -> tuple[list[Buffer], dict[str, tuple[torch.Tensor, ...]]]:
    persistent = set(model.state_dict(keep_vars=True))
    aliases = _aliases(model.named_buffers(remove_duplicate=False))
    rows: list[Buffer] = []
    live: dict[str, list[torch.Tensor]] = {}
    ends: dict[str, int] = {}
    for name, buffer in model.named_buffers():
        if name not in persistent or not wanted(name):
            continue
        require_exact("buffer", name, buffer, EXACT_IN_FLOAT32 | OWN_DTYPE)
        dtype = dtype_name(buffer)
        array = "buffers" if buffer.dtype in EXACT_IN_FLOAT32 else f"buffers_{dtype}"
        offset = ends.get(array, 0)
        rows.append(
            Buffer(
                name=name,
                shape=tuple(buffer.shape),
                offset=offset,
                dtype=dtype,
                array=array,
                aliases=tuple(aliases[id(buffer)][1:]),
            )
        )
        live.setdefault(array, []).append(buffer)
        ends[array] = offset + buffer.numel()
    return rows, {array: tuple(found) for array, found in live.items() if ends[array]}


def require_exact(
    what: str, name: str, tensor: torch.Tensor, accepted: set[torch.dtype], fix: str = ""
) -> None:
    """Raise UnsupportedTensorError unless a tensor can be stored exactly.

    Parameters
    ----------
    what, name : str
        What it is, and of what name.
    tensor : Tensor
        Any.
    accepted : set of dtype
        Types that can be.
    fix : str
        What to do about it; by default to exclude it.
    """
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    if tensor.dtype not in accepted or not plain:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in accepted))
        kind = dtype_name(tensor) if plain else f"{dtype_name(tensor)}, not dense"
        raise UnsupportedTensorError(
            f"{what} {name!r} ({kind}) cannot be stored exactly; accepted: dense {names}. "
            + (fix or f"Convert it, or leave it out with exclude=[{name!r}].")
        )


def _form(tensor: torch.Tensor) -> tuple[tuple[int, ...], str, str]:
    return tuple(tensor.shape), dtype_name(tensor), str(tensor.device)


def _replaced(what: str, name: str) -> RecordingError:
    return RecordingError(
        f"{what} {name!r} was replaced by another one, which is not recorded; change parameters in "
        "place (parameter.data.copy_), or record the new model as a run of its own"
    )


def dtype_name(tensor: torch.Tensor) -> str:
    """Return a tensor's type as the tensor table names it, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def _aliases(named: Iterable[tuple[str, torch.Tensor]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, tensor in named:
        found.setdefault(id(tensor), []).append(name)
    return found


def _kinds(model: nn.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            found[f"{prefix}.{name}" if prefix else name] = _kind(module, name)
    return found


def _kind(module: nn.Module, name: str) -> str:
    if isinstance(module, _NORMS):
        return "norm"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if "bias" in name:
        return "bias"
    if "weight" in name:
        if isinstance(module, nn.modules.conv._ConvNd):
            return "conv"
        if isinstance(module, nn.Linear | nn.Bilinear | nn.MultiheadAttention | nn.RNNBase):
            return "linear"
    return "other"
