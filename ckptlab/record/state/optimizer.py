"""Turn the state of optimizers and of what a user attached into arrays and one byte row, and back.

Parameter-shaped states become vectors over the parameters; everything else (step counts, odd
shapes, hyperparameters) goes into safetensors with a JSON header. It comes back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from ckptlab.errors import CorruptError, LayoutError
from ckptlab.record.state.attached import Attached
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.packing import pack, unpack
from ckptlab.record.state.sharding import like, local, require_replicated
from ckptlab.record.streams import HostCopies
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.layout import Tensor
from ckptlab.store.format.schema import OPTIMIZER, is_optimizer_name

_EXACT = {torch.float32, torch.float16, torch.bfloat16}
_HEADER = "ckptlab"
_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
"""How an optimizer computes, which is up to the process that does: a GPU's cannot be a CPU's."""
_SCHEDULER_KEYS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}
"""Settings that learning-rate schedulers add to a group."""


@dataclass
class OptimizerState:
    """A copy of an optimizer's state after `step`, still on its device.

    `vectors` holds parameter-shaped states, float32, shape (param,), NaN where absent; `odd` other
    tensors, by ``state/<parameter>/<key>`` or ``group/<index>/<key>``; `header` is JSON: which
    parameters have which state, data types, plain values, groups. On a GPU, `copies` are those on
    their way to the host.
    """

    step: int
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)
    odd: dict[str, torch.Tensor] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    copies: HostCopies | None = None

    def to_anchor(self) -> Anchor:
        """Bring it to the host; on a GPU this waits for the copies."""
        held = self.vectors | self.odd if self.copies is None else self.copies.wait()
        states = {key: held[key].numpy() for key in self.vectors}
        odd = {name: held[name].contiguous() for name in self.odd}
        # Safetensors needs a tensor; without one a header alone would not be written.
        odd.setdefault("empty", torch.zeros(0))
        row = save_safetensors(odd, {_HEADER: json.dumps(self.header)})
        return Anchor(step=self.step, states=states, row=row)


Optimizers = Mapping[str, torch.optim.Optimizer]
"""By name; one alone has an empty name."""


def named(optimizer: torch.optim.Optimizer | None) -> Optimizers:
    """Return one optimizer, or none, by name."""
    return {} if optimizer is None else {"": optimizer}


def copy_state(
    optimizer: torch.optim.Optimizer | None, captured: Capture, step: int
) -> OptimizerState:
    """Copy one optimizer's state, as `copy_states` does."""
    return copy_states(named(optimizer), captured, step)


def copy_states(
    optimizers: Optimizers, captured: Capture, step: int, attached: Attached | None = None
) -> OptimizerState:
    """Copy the states, as they are after `step`, without waiting for the device."""
    result = OptimizerState(step)
    present: dict[str, list[str]] = {}
    headers = {
        name: _copy_one(optimizer, captured, result, present, _section(name))
        for name, optimizer in optimizers.items()
    }
    if "" in headers:
        result.header = headers[""]
    elif headers:
        # Readers find the arrays of an anchor by `present`, whoever wrote into them.
        result.header = {"present": present, "optimizers": headers}
    if attached is not None and (states := attached.copy(result.odd)):
        result.header = {**result.header, "attached": states}
    if result.header:
        result.copies = HostCopies(result.vectors | result.odd, captured.device)
    return result


def _section(name: str) -> str:
    return f"optimizer/{name}/" if name else ""


def _copy_one(
    optimizer: torch.optim.Optimizer,
    captured: Capture,
    result: OptimizerState,
    present: dict[str, list[str]],
    section: str,
) -> dict[str, Any]:
    """Copy one optimizer's state into `result`; return its header.

    `present` is added to: a state that another optimizer has put into an array stays odd.
    """
    own: dict[str, list[str]] = {}
    dtypes: dict[str, dict[str, str]] = {}
    plain: dict[str, dict[str, Any]] = {}
    places, values = [], []
    for tensor, parameter, part in zip(
        captured.local.tensors, captured.parameters, captured.tensors, strict=True
    ):
        for key, found in optimizer.state.get(parameter, {}).items():
            value = local(found) if isinstance(found, torch.Tensor) else found
            name = f"{section}state/{tensor.name}/{key}"
            if not isinstance(value, torch.Tensor) or "/" in key:
                plain.setdefault(tensor.name, {})[key] = pack(value, name, result.odd)
            elif _is_vector(value, part, key) and tensor.name not in present.get(key, ()):
                vector = result.vectors.get(key)
                if vector is None:
                    size, device = captured.local.parameters, parameter.device
                    vector = torch.full((size,), torch.nan, device=device)
                    result.vectors[key] = vector
                places.append(vector[tensor.stretch].view(part.shape))
                values.append(value.detach())
                own.setdefault(key, []).append(tensor.name)
                if value.dtype is not torch.float32:
                    dtypes.setdefault(key, {})[tensor.name] = str(value.dtype)[6:]
            else:
                require_replicated(name, found)
                result.odd[name] = value.detach().clone()
    if places:
        torch._foreach_copy_(places, values)
    for key, names in own.items():
        present.setdefault(key, []).extend(names)
    groups = _copy_groups(optimizer, result.odd, section)
    return {"present": own, "dtypes": dtypes, "plain": plain, "groups": groups}


def _copy_groups(
    optimizer: torch.optim.Optimizer, odd: dict[str, torch.Tensor], section: str
) -> list[dict[str, Any]]:
    """Return the hyperparameters that JSON holds; those that are tensors go to `odd`."""
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        options = {}
        for key, value in group.items():
            if isinstance(value, torch.Tensor):
                odd[f"{section}group/{index}/{key}"] = value.detach().clone()
            elif key != "params" and _is_json(value):
                options[key] = value
        groups.append(options)
    return groups


def restore_state(
    optimizer: torch.optim.Optimizer | None, captured: Capture, anchor: Anchor
) -> None:
    """Set one optimizer to the state of an anchor, as `restore_states` does."""
    restore_states(named(optimizer), captured, anchor)


def recorded_optimizers(header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the headers of the optimizers that an anchor's header holds, by name."""
    several: dict[str, dict[str, Any]] = header.get("optimizers", {})
    return {"": dict(header)} if "groups" in header else several


def restore_states(optimizers: Optimizers, captured: Capture, anchor: Anchor) -> None:
    """Set optimizers to the states of an anchor; LayoutError unless they are of their kinds.

    No optimizer, and an anchor of none, are left alone.
    """
    if not optimizers or not anchor.row:
        return
    header, odd = read_row(anchor.row)
    headers = recorded_optimizers(header)
    if not headers:
        return
    if headers.keys() != optimizers.keys():
        recorded, given = (", ".join(names) or "one alone" for names in (headers, optimizers))
        raise LayoutError(
            f"the run was recorded with the optimizers {recorded}; given: {given}. Give them as "
            "they were recorded, by the same names"
        )
    for name, optimizer in optimizers.items():
        _restore_one(optimizer, captured, anchor, headers[name], odd, _section(name))


def _restore_one(
    optimizer: torch.optim.Optimizer,
    captured: Capture,
    anchor: Anchor,
    header: Mapping[str, Any],
    odd: Mapping[str, torch.Tensor],
    section: str,
) -> None:
    rows = zip(captured.local.tensors, captured.tensors, strict=True)
    by_parameter = dict(zip(captured.parameters, rows, strict=True))
    groups = header["groups"]
    if len(groups) != len(optimizer.param_groups):
        raise LayoutError(
            f"the optimizer has {len(optimizer.param_groups)} parameter groups, "
            f"the recording {len(groups)}; build it as it was recorded"
        )
    odd = {n.removeprefix(section): tensor for n, tensor in odd.items() if n.startswith(section)}
    _require_same_kind(optimizer, groups, odd)
    state: dict[int, dict[str, Any]] = {}
    packed = []
    index = 0
    for number, group in enumerate(optimizer.param_groups):
        indices = []
        for parameter in group["params"]:
            if parameter not in by_parameter:
                raise LayoutError(
                    "the optimizer has a parameter that is not recorded; its state cannot be "
                    "restored. Record all it trains to resume."
                )
            tensor, part = by_parameter[parameter]
            values = _values_of(tensor, parameter, part, anchor, header, odd)
            if values:
                state[index] = values
            indices.append(index)
            index += 1
        options = {key: value for key, value in group.items() if key != "params"}
        for key, value in groups[number].items():
            if key not in _IMPLEMENTATION:
                options[key] = tuple(value) if isinstance(value, list) else value
        prefix = f"group/{number}/"
        options |= {n.removeprefix(prefix): t for n, t in odd.items() if n.startswith(prefix)}
        packed.append({**options, "params": indices})
    optimizer.load_state_dict({"state": state, "param_groups": packed})
    _undo_casts(optimizer, state)


def _require_same_kind(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], odd: Mapping[str, torch.Tensor]
) -> None:
    """Raise LayoutError if recorded and given settings show two kinds of optimizer.

    A newer torch only adds settings, so each must have one that the other lacks.
    """
    recorded = set(groups[0]) | {n.rpartition("/")[2] for n in odd if n.startswith("group/0/")}
    given = {key for key, value in optimizer.defaults.items() if _is_json(value)}
    foreign = recorded - set(optimizer.param_groups[0]) - _SCHEDULER_KEYS
    missing = given - recorded
    if foreign and missing:
        raise LayoutError(
            f"the run was recorded with an optimizer that has {', '.join(sorted(foreign))}; "
            f"{type(optimizer).__name__} has {', '.join(sorted(missing))} instead. Give the "
            "optimizer that was recorded, or branch from the run with a fresh optimizer"
        )


def _undo_casts(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Put back what torch cast to its parameter's type on loading, such as NAdam's `mu_product`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        loaded = optimizer.state[parameters[index]]
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and loaded[key].dtype != value.dtype:
                loaded[key] = value.to(loaded[key].device)


def read_row(row: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Split an anchor's byte row into its JSON header and its tensors."""
    try:
        length = int.from_bytes(row[:8], "little")
        metadata: Mapping[str, str] = json.loads(row[8 : 8 + length]).get("__metadata__", {})
        return json.loads(metadata.get(_HEADER, "{}")), load_safetensors(row)
    except (ValueError, AttributeError, TypeError, SafetensorError) as error:
        raise CorruptError(
            f"the optimizer's byte row is no safetensors of ckptlab: {error}"
        ) from error


def _values_of(
    row: Tensor,
    parameter: torch.Tensor,
    part: torch.Tensor,
    anchor: Anchor,
    header: Mapping[str, Any],
    odd: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    name = row.name
    plain = header["plain"].get(name, {})
    values: dict[str, Any] = {key: unpack(value, odd) for key, value in plain.items()}
    prefix = f"state/{name}/"
    for key, tensor in odd.items():
        if key.startswith(prefix) and "/" not in key.removeprefix(prefix):
            values[key.removeprefix(prefix)] = tensor
    for key, names in header["present"].items():
        if name in names:
            stretch = anchor.states[key][row.stretch]
            vector = torch.from_numpy(np.array(stretch, np.float32)).view(part.shape)
            dtype = getattr(torch, header["dtypes"].get(key, {}).get(name, "float32"))
            # Fused optimizers want it to lie in memory as the parameter does.
            value = torch.empty_like(part, dtype=dtype, device="cpu").copy_(vector)
            values[key] = like(parameter, value)
    return values


def _is_vector(value: torch.Tensor, parameter: torch.Tensor, key: str) -> bool:
    """Return whether a state goes into an array over the parameters."""
    same = value.shape == parameter.shape and value.dtype in _EXACT and value.ndim > 0
    return same and is_optimizer_name(OPTIMIZER + key)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
