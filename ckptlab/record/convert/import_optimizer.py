"""Take the optimizer's state of a checkpoint over, where it maps to the model's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from ckptlab.errors import CkptlabError
from ckptlab.record.convert.choose_weights import Weights
from ckptlab.record.convert.tensors import Content
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.optimizer import copy_state
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.layout import Layout

BYTES_A_PARAMETER = 24
"""Of a state while it is taken over: Adam's two in the file, as vectors, and one encoded."""


def read_anchor(
    content: Content, weights: Weights, layout: Layout, step: int, memory: int
) -> tuple[Anchor | None, str]:
    """Read the state of a checkpoint's optimizer.

    Parameters
    ----------
    content, weights : Content, Weights
        What the checkpoint holds.
    layout : Layout
        Of the run.
    step : int
        Of the checkpoint.
    memory : int
        Bytes that may be held.

    Returns
    -------
    anchor : Anchor or None
        None if there is no state, or it does not map to the parameters.
    note : str
        Why a state that is there was left out, else empty.
    """
    if content.optimizers is None:
        return None, ""
    if BYTES_A_PARAMETER * layout.parameters > memory:
        return None, "left out the optimizer: it takes more than --memory"
    try:
        found = content.optimizers()
        if len(found) != 1:
            return None, f"left out {len(found)} optimizers: one is taken over" * bool(found)
        names = _names(found[0], content, weights, layout)
        if isinstance(names, str):
            return None, f"left out the optimizer: {names}"
        return _anchor(found[0], names, layout, step), ""
    except CkptlabError as error:
        return None, f"left out the optimizer: {error}"
    except (LookupError, TypeError, AttributeError, ValueError):
        return None, "left out the optimizer: it is no state_dict of torch's"


def _names(
    optimizer: Mapping[str, Any], content: Content, weights: Weights, layout: Layout
) -> list[str] | str:
    """Name the parameter of each of the optimizer's, in its order; else say why not."""
    groups, keys = optimizer["param_groups"], _keys(optimizer)
    count = len(keys)
    known = {n: row.name for row in layout.tensors for n in (row.name, *row.aliases)}
    own = [name for group in groups for name in group.get("param_names", ())]
    if len(own) != count and all(isinstance(key, str) for key in keys):
        own = keys  # as torch.distributed.checkpoint.state_dict names them
    if len(own) == count > 0:
        if unknown := [name for name in own if name not in known]:
            return f"it names the parameter {unknown[0]!r:.80}, which the model lacks"
        candidates = [[known[name] for name in own]]
    else:
        order = content.order([*weights.tensors])
        if order is None:
            return "the files do not tell the order of the parameters"
        names = [*dict.fromkeys(known[name] for name in order if name in known)]
        kinds = {row.name: row.kind in ("norm", "bias") for row in layout.tensors}
        # HF's Trainer has a group that decays, then one of biases and norms that does not.
        parted = sorted(names, key=lambda name: kinds[name])
        candidates = [parted, names] if len(groups) == 2 else [names]
        if count != len(names):
            return f"it has {count} parameters, the model {len(names)}"
    for names in candidates:
        if _fits(optimizer, names, layout):
            return names
    return "its states are not of the parameters' shapes"


def _fits(optimizer: Mapping[str, Any], names: Sequence[str], layout: Layout) -> bool:
    shapes = {row.name: row.shape for row in layout.tensors}
    for key, name in zip(_keys(optimizer), names, strict=True):
        states = [v for v in optimizer["state"].get(key, {}).values() if _is_state(v)]
        if name not in shapes or any(tuple(value.shape) != shapes[name] for value in states):
            return False
    return True


def _is_state(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() > 1


def _keys(optimizer: Mapping[str, Any]) -> list[Any]:
    return [key for group in optimizer["param_groups"] for key in group["params"]]


def _anchor(
    optimizer: Mapping[str, Any], names: Sequence[str], layout: Layout, step: int
) -> Anchor | None:
    # Of the parameters only their shapes are asked for.
    parameters = {row.name: torch.empty(()).expand(row.shape) for row in layout.tensors}
    state = {
        parameters[name]: optimizer["state"][key]
        for key, name in zip(_keys(optimizer), names, strict=True)
        if key in optimizer["state"]
    }
    given = SimpleNamespace(state=state, param_groups=optimizer["param_groups"])
    captured = Capture(
        layout=layout,
        parameters=cast(tuple[nn.Parameter, ...], tuple(parameters.values())),
        buffers={},
        complete=True,
        model=nn.Module(),
        wanted=lambda _: True,
    )
    copied = copy_state(cast(torch.optim.Optimizer, given), captured, step)
    return copied.to_anchor()
