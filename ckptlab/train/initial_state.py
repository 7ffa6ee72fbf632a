"""Hold the state a training begins from, where that is not its initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import LayoutError
from ckptlab.record.state.model_tensors import Capture, capture
from ckptlab.record.state.optimizer import restore_state
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.layout import Buffer, Layout, Tensor
from ckptlab.train.assemble import Training


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Start:
    """Weights, buffers and optimizer at one step.

    `step` is the number the state has in the training that begins: schedule and order go on from
    it. `vectors` holds ``weights`` and the arrays of buffers, laid out by `layout`; `anchor` the
    optimizer's state, None if it starts fresh; `mask` which weights the training that is left kept;
    `origin` where the state is from, as JSON for the root attributes.
    """

    step: int
    layout: Layout
    vectors: Mapping[str, npt.NDArray[Any]]
    anchor: Anchor | None = None
    mask: npt.NDArray[np.bool_] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


def begin(training: Training, start: Start | None) -> list[str]:
    """Set a training to the state it begins from, with pruned weights at zero.

    Returns the tensors left at their initialisation: those of an output layer of another size.

    Raises
    ------
    LayoutError
        If the networks differ elsewhere, or the optimizer's state is of another kind.
    """
    fresh = [] if start is None else _set(training, start)
    if training.update.sparsity is not None:
        training.update.sparsity.apply(training.optimizer)
    return fresh


def _set(training: Training, start: Start) -> list[str]:
    live = capture(training.model)
    fresh = fresh_tensors(live.layout, start.layout, len(training.problem.answers))
    _load(live, start, fresh)
    if start.anchor is None:
        return fresh
    if fresh:
        raise LayoutError(
            f"the output layer {', '.join(fresh)} is new, so the optimizer's state does not fit; "
            "begin with a fresh optimizer"
        )
    try:
        restore_state(training.optimizer, live, start.anchor)
    except (KeyError, ValueError) as error:
        raise LayoutError(
            f"the optimizer's state is not one of {type(training.optimizer).__name__} as it is "
            f"set here ({error}); begin with a fresh optimizer"
        ) from error
    return fresh


def fresh_tensors(live: Layout, start: Layout, classes: int) -> list[str]:
    """Return the tensors of a new output layer; LayoutError if anything else differs."""
    given = {row.name: row for row in start.rows}
    fresh = []
    for row in live.rows:
        other = given.pop(row.name, None)
        if other is not None and (other.shape, other.dtype) == (row.shape, row.dtype):
            continue
        if other is None or not _is_output(row, other, classes):
            found = "none of that name" if other is None else f"{other.shape} {other.dtype}"
            raise LayoutError(
                f"the network has {row.name!r} {row.shape} {row.dtype}, the state to begin from "
                f"has {found}; choose the model.name and model.width it was recorded with"
            )
        fresh.append(row.name)
    if given:
        raise LayoutError(
            f"the state to begin from has {next(iter(given))!r}, the network has not; choose the "
            "model.name and model.width it was recorded with"
        )
    return fresh


def _is_output(row: Tensor | Buffer, other: Tensor | Buffer, classes: int) -> bool:
    is_tensor = isinstance(row, Tensor) and isinstance(other, Tensor)
    ends = row.shape[1:] == other.shape[1:] and len(row.shape) == len(other.shape) > 0
    return is_tensor and ends and row.shape[0] == classes != other.shape[0]


@torch.no_grad()
def _load(live: Capture, start: Start, fresh: list[str]) -> None:
    tensors = zip(live.layout.tensors, live.parameters, strict=True)
    targets: dict[str, torch.Tensor] = {row.name: tensor for row, tensor in tensors}
    for array, buffers in live.buffers.items():
        rows = [row for row in live.layout.buffers if row.array == array]
        targets |= {row.name: tensor for row, tensor in zip(rows, buffers, strict=True)}
    for name, part in start.layout.split(start.vectors).items():
        if name not in fresh:
            targets[name].copy_(torch.from_numpy(np.array(part)))
