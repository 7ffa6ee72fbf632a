"""Restore model, optimizer and the partly filled block of a run that is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError, LayoutError, RecordingError
from ckptlab.record.pipeline.buffers import HOST_SERIES, BlockBuffer
from ckptlab.record.schedule import Schedule
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.training import Training
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.power_loss import surviving_lengths
from ckptlab.store.read.reader import open_latest, read_root
from ckptlab.store.write.writer import StoreWriter


def require_resumable(
    writer: StoreWriter, captured: Capture, schedule: Schedule, observe: Schedule | None
) -> None:
    """Raise LayoutError for another model's run, ConfigError for another schedule."""
    require_same_layout(writer.layout, captured.layout)
    if not captured.complete:
        raise ConfigError("a trainable parameter is excluded, so training cannot be resumed")
    recorded = writer.attributes.get("schedule")
    if recorded != schedule.text:
        raise ConfigError(
            f"steps={schedule.text!r} is not the schedule of the run, {recorded!r}; give that one"
        )
    observed, given = writer.attributes.get("observe"), None if observe is None else observe.text
    if observed != given:
        raise ConfigError(
            f"observe={given!r} is not what the run observes, {observed!r}; give that",
            parameter="observe",
        )


def require_same_layout(stored: Layout, given: Layout) -> None:
    """Raise LayoutError, naming the first difference, unless both describe the same tensors."""
    difference = stored.difference(given)
    if difference is not None:
        name, recorded, live = difference
        raise LayoutError(
            f"{name!r} is {live} in the model and {recorded} in the run; build the model that was "
            "recorded"
        )


def restore(
    writer: StoreWriter,
    captured: Capture,
    training: Training,
    schedule: Schedule,
    observe: Schedule | None,
    plan: Mapping[str, Any],
) -> tuple[int, int]:
    """Set model, optimizers, attached state and writer to the last anchor.

    Return the run's first step and its step. What `plan` sets replaces the run's attributes.
    """
    require_resumable(writer, captured, schedule, observe)
    start = step = int(writer.attributes.get("start_step", 0))
    kept = 0
    if writer.anchors:
        step = writer.anchors[-1]
        stored = writer.stored()
        load_model(captured, lambda name: stored.snapshot(step, name))
        training.restore(captured, stored.anchor(step))
        # A last state outside the schedule would not be there had the run gone on.
        kept = writer.steps.index(step) + (step in schedule)
    writer.set_attributes(**{key: value for key, value in plan.items() if value})
    # Later: the other ranks may still be reading the step that is restored.
    # Where nothing is kept, the first state is observed again.
    observed = sum(seen <= step for seen in writer.observed) if kept else 0
    writer.cut(kept, later=True, observed=observed)
    return start, step


def go_on_at(
    writer: StoreWriter,
    captured: Capture,
    step: int,
    schedule: Schedule,
    observe: Schedule | None,
    plan: Mapping[str, Any],
) -> int:
    """Cut the run after `step`, at which the model is already; return the run's first step.

    Raises ConfigError if the run does not reach the step, or holds another state there.
    """
    require_resumable(writer, captured, schedule, observe)
    start = int(writer.attributes.get("start_step", 0))
    kept = [recorded for recorded in writer.steps if recorded <= step and recorded in schedule]
    wanted = schedule.steps(step + 1)
    wanted = wanted[wanted >= start]
    if step < start or len(kept) < len(wanted):
        end = f"ends at step {kept[-1]}" if kept else "holds no step before"
        raise ConfigError(
            f"at={step}: the run begins at step {start} and {end}, so that steps would be missing; "
            "begin from an earlier checkpoint, or record to another path with start=",
            parameter="at",
        )
    if step in writer.steps:
        recorded = captured.layout.split({"weights": writer.stored().snapshot(step)})
        for tensor, parameter in zip(captured.layout.tensors, captured.parameters, strict=True):
            if not np.array_equal(
                recorded[tensor.name], parameter.detach().float().cpu().numpy(), equal_nan=True
            ):
                raise ConfigError(
                    f"at={step}: parameter {tensor.name!r} is not what the run recorded at that "
                    "step; load the checkpoint of that step first, or record to another path",
                    parameter="at",
                )
    writer.set_attributes(**{key: value for key, value in plan.items() if value})
    observed = sum(seen <= step for seen in writer.observed)
    writer.cut(len(kept), later=True, observed=observed)
    return start


def restore_beside(storage: Storage, captured: Capture, training: Training) -> int:
    """Set model and optimizers to the last anchor on a rank that does not write; return its step.

    Raises RecordingError where the first rank, which resumes the run, may go by more than this one
    sees.
    """
    if surviving_lengths(read_root(storage)[0]) is not None:
        raise RecordingError(
            f"{storage.path} was left by one process on another machine, or before this one "
            "booted, so that ranks may differ about where it ends; resume it once with one "
            "process (enter the recorder and leave), then with several"
        )
    # By the markers, which may be ahead of the view, as the first rank goes.
    stored = open_latest(storage)
    if not len(stored.anchors):
        return int(stored.attributes.get("start_step", 0))
    step = int(stored.anchors[-1])
    load_model(captured, lambda name: stored.snapshot(step, name))
    training.restore(captured, stored.anchor(step))
    return step


@torch.no_grad()
def load_model(captured: Capture, read: Callable[[str], npt.NDArray[np.generic]]) -> None:
    """Set parameters and buffers to one snapshot; `read` returns the vector of an array by name."""
    live = {array: captured.live_buffers(array) for array in captured.buffers}
    for name, tensors in {"weights": captured.parameters, **live}.items():
        parts = captured.layout.split({name: torch.from_numpy(np.array(read(name)))}).values()
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part)


def refill(buffer: BlockBuffer, writer: StoreWriter) -> None:
    """Fill an empty buffer with the partly filled last block of a run, to be extended."""
    kept = len(writer.steps)
    buffer.start = kept // writer.block * writer.block
    buffer.count = kept - buffer.start
    if not buffer.count:
        return
    stored = writer.stored()
    for name in writer.scalars:
        buffer.add_scalar(name)
    for name, rows in buffer.device_rows.items():
        if name in buffer.views:
            values = stored.array(name).read_block(buffer.start // writer.block)
        else:
            series = stored.small(name)[..., buffer.start :]
            values = np.atleast_2d(series).T if series.ndim == 2 else series[:, None]
        rows[: buffer.count].copy_(torch.from_numpy(np.ascontiguousarray(values)))
    for name in HOST_SERIES:
        buffer.series[name][: buffer.count] = stored.small(name)[buffer.start :]
