"""List the tensors of a model that are recorded: parameters and persistent buffers, in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from operator import is_
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckptlab.errors import ConfigError, RecordingError, UnsupportedTensorError
from ckptlab.record.state.kinds import parameter_kinds
from ckptlab.record.state.naming import (
    aliases_of,
    all_parameters,
    clean,
    module_names,
    persistent_buffers,
    unwrap,
)
from ckptlab.record.state.sharding import Parts, local, ranges_of, require_supported
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
"""Types of buffers that are stored in an array of their own type."""


@dataclass(frozen=True)
class Capture:
    """The live tensors of a model, and the layout that describes them.

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
        The model without outer wrappers.
    wanted : callable
        Returns whether a name, without wrappers, is recorded.
    parts : Parts, optional
        What this process holds of a model that is sharded.
    """

    layout: Layout
    parameters: tuple[nn.Parameter, ...]
    buffers: dict[str, tuple[torch.Tensor, ...]]
    complete: bool
    model: nn.Module
    wanted: Callable[[str], bool]
    parts: Parts | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.parameters[0].device

    @property
    def local(self) -> Layout:
        """The tensor table of what this process holds: of all, unless the model is sharded."""
        return self.layout if self.parts is None else self.parts.layout

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What this process holds of the parameters, in the order of ``local.tensors``."""
        return self.parameters if self.parts is None else self.parts.tensors

    def refresh(self) -> None:
        """Have `tensors` and their gradients be those of now."""
        if self.parts is not None:
            self.parts.refresh()

    def release(self) -> None:
        """Let go of the gradients that `refresh` found."""
        if self.parts is not None:
            self.parts.release()

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        """Return the modules by their names without wrappers, the innermost of each name."""
        names = module_names(self.model)
        return {names[raw]: module for raw, module in self.model.named_modules()}

    @cached_property
    def _places(self) -> dict[str, list[tuple[nn.Module, str, str, torch.Tensor]]]:
        places: dict[str, list[tuple[nn.Module, str, str, torch.Tensor]]] = {}
        for array, tensors in self.buffers.items():
            rows = [row for row in self.layout.buffers if row.array == array]
            for row, tensor in zip(rows, tensors, strict=True):
                prefix, _, key = row.name.rpartition(".")
                places.setdefault(array, []).append((self._modules[prefix], key, row.name, tensor))
        return places

    def live_buffers(self, array: str) -> list[torch.Tensor]:
        """Look up the buffers of an array now, since modules assign new tensors to them.

        Raises RecordingError if one no longer has the shape, type and device it had.
        """
        found = []
        for module, key, name, known in self._places[array]:
            tensor = module._buffers.get(key)
            if tensor is not known and (tensor is None or _form(tensor) != _form(known)):
                now = "is gone" if tensor is None else f"became {_form(tensor)}"
                raise RecordingError(f"buffer {name!r} was {_form(known)} and {now}")
            found.append(local(tensor))
        return found

    @cached_property
    def _links(self) -> _Links:
        links = _Links([], [], [], [], [])
        names = module_names(self.model)
        modules = dict(self.model.named_modules())
        recorded = {id(parameter) for parameter in self.parameters}
        for raw, module in modules.items():
            clean = names[raw]
            if raw:
                parent, _, key = raw.rpartition(".")
                links.add(modules[parent]._modules, key, module, f"module {clean!r}")
            for key, parameter in module._parameters.items():
                name = f"{clean}.{key}" if clean else key
                ours = parameter is None or id(parameter) in recorded
                if ours and self.wanted(name):
                    links.add(module._parameters, key, parameter, f"parameter {name!r}")
            for key, buffer in module._buffers.items():
                name = f"{clean}.{key}" if clean else key
                absent = buffer is None and key not in module._non_persistent_buffers_set
                if absent and self.wanted(name):
                    links.add(module._buffers, key, None, f"buffer {name!r}")
            links.tables += [module._parameters, module._buffers, module._modules]
        return links

    def require_unchanged(self) -> None:
        """Raise RecordingError unless the model still holds just the tensors that are recorded."""
        self.refresh()
        links = self._links
        if not all(map(is_, map(dict.get, links.holders, links.keys), links.values)):
            for holder, key, value, what in links.rows():
                if (now := holder.get(key)) is not value:
                    change = "was replaced by another one" if value is not None else "is new"
                    raise _changed(what, "was removed" if now is None else change)
        if sum(map(len, links.tables)) != links.size:
            self._require_nothing_new()
            links.size = sum(map(len, links.tables))

    def _require_nothing_new(self) -> None:
        known = {name for row in self.layout.rows for name in (row.name, *row.aliases)}
        names = module_names(self.model)
        live = {clean(names, name) for name, _ in all_parameters(self.model)}
        live |= {clean(names, name) for name, _ in persistent_buffers(self.model)}
        for name in sorted(live - known):
            if self.wanted(name):
                raise _changed(f"tensor {name!r}", "is new")

    def require_forms(self) -> None:
        """Raise RecordingError if a parameter has another shape, type or device than recorded."""
        for row, tensor in zip(self.local.tensors, self.tensors, strict=True):
            known = (row.shape, row.dtype, str(self.device))
            if _form(tensor) != known:
                raise _changed(
                    f"parameter {row.name!r}",
                    f"was {known} and became another form: {_form(tensor)}",
                )


@dataclass
class _Links:
    """What every recorded parameter and module hangs on: ``holders[i].get(keys[i]) is values[i]``.

    Kept as lists, so that one pass of C over them per recorded step finds what was replaced.
    """

    holders: list[dict[str, Any]]
    keys: list[str]
    values: list[Any]
    names: list[str]
    tables: list[dict[str, Any]]
    size: int = -1

    def add(self, holder: dict[str, Any], key: str, value: Any, name: str) -> None:
        self.holders.append(holder)
        self.keys.append(key)
        self.values.append(value)
        self.names.append(name)

    def rows(self) -> Iterable[tuple[dict[str, Any], str, Any, str]]:
        return zip(self.holders, self.keys, self.values, self.names, strict=True)


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
        May be compiled or wrapped in DistributedDataParallel, as a whole or in parts.
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
        If nothing is left to record, a shape is not known yet, or parameters lie on several
        devices or are sharded otherwise than as DTensors.
    """
    sharded = require_supported(model)
    bare = unwrap(model)

    def wanted(name: str) -> bool:
        included = include is None or any(fnmatchcase(name, pattern) for pattern in include)
        return included and not any(fnmatchcase(name, pattern) for pattern in exclude or ())

    names, kinds = module_names(bare), parameter_kinds(bare)
    aliases = aliases_of(names, all_parameters(bare))
    tensors: list[Tensor] = []
    parameters: list[nn.Parameter] = []
    complete, offset = True, 0
    for raw, parameter in bare.named_parameters():
        name = clean(names, raw)
        if not wanted(name):
            complete &= not parameter.requires_grad
            continue
        _require_initialised(bare, raw, parameter)
        require_exact("parameter", name, parameter, EXACT_IN_FLOAT32)
        kind = kinds.get(raw, "other")
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
        listed = ", ".join(sorted(map(str, devices)))
        raise ConfigError(f"parameters lie on several devices ({listed}); one is supported")
    rows, buffers = _buffers(bare, names, wanted)
    layout = Layout(tuple(tensors), tuple(rows))
    parts = _parts(bare, layout, tuple(parameters)) if sharded else None
    return Capture(layout, tuple(parameters), buffers, complete, bare, wanted, parts)


def _parts(model: nn.Module, layout: Layout, parameters: tuple[nn.Parameter, ...]) -> Parts:
    rows, ranges, views, offset = [], [], [], 0
    for row, parameter in zip(layout.tensors, parameters, strict=True):
        held = local(parameter)
        ranges.append(ranges_of(row.name, parameter, row.offset))
        rows.append(replace(row, shape=tuple(held.shape), offset=offset))
        views.append(parameter if held is parameter else held)
        offset += held.numel()
    local_layout = Layout(tuple(rows), layout.buffers)
    parts = Parts(local_layout, tuple(views), tuple(ranges), model, parameters)
    parts.refresh()
    return parts


def _buffers(
    model: nn.Module, names: dict[str, str], wanted: Callable[[str], bool]
) -> tuple[list[Buffer], dict[str, tuple[torch.Tensor, ...]]]:
    aliases = aliases_of(names, model.named_buffers(remove_duplicate=False))
    persistent = {raw for raw, _ in persistent_buffers(model)}
    rows: list[Buffer] = []
    live: dict[str, list[torch.Tensor]] = {}
    ends: dict[str, int] = {}
    for raw, buffer in model.named_buffers():
        name = clean(names, raw)
        if raw not in persistent or not wanted(name):
            continue
        _require_initialised(model, raw, buffer)
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


def warn_of_extra_state(model: nn.Module) -> None:
    """Warn of modules whose ``get_extra_state`` holds what no array can."""
    own = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    if own:
        warnings.warn(
            f"the extra state of {', '.join(own)} is not recorded; save it beside the run",
            stacklevel=4,
        )


def _require_initialised(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        prefix = name.rpartition(".")[0]
        called = type(model.get_submodule(prefix)).__name__
        raise ConfigError(
            f"{name!r} of {called} {prefix!r} has no shape yet; run one batch through the model "
            "before recording it"
        )


def require_exact(
    what: str, name: str, tensor: torch.Tensor, accepted: set[torch.dtype], fix: str = ""
) -> None:
    """Raise UnsupportedTensorError unless the `accepted` types can hold a dense tensor exactly.

    The message says what to do: `fix`, or by default to exclude the tensor.
    """
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    if tensor.dtype not in accepted or not plain:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in accepted))
        kind = dtype_name(tensor) if plain else f"{dtype_name(tensor)}, not dense"
        raise UnsupportedTensorError(
            f"{what} {name!r} ({kind}) cannot be stored exactly; accepted: dense {names}. "
            + (fix or f"Convert it, or leave it out with exclude=[{name!r}].")
        )


def dtype_name(tensor: torch.Tensor) -> str:
    """Return a tensor's type as the tensor table names it, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def _form(tensor: torch.Tensor) -> tuple[tuple[int, ...], str, str]:
    return tuple(tensor.shape), dtype_name(tensor), str(tensor.device)


def _changed(what: str, change: str) -> RecordingError:
    return RecordingError(
        f"{what} {change}, which is not recorded; change parameters in place "
        "(parameter.data.copy_), or record the new model as a run of its own"
    )
