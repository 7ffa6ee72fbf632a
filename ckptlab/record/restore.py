"""Restore model, optimizer and the partly filled block of a run that is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError, LayoutError, RecordingError
from ckptlab.record.pipeline.buffers import HOST_SERIES, BlockBuffer
from ckptlab.record.pipeline.exchange import read_ranges
from ckptlab.record.pipeline.sharded_writer import ShardedWriter
from ckptlab.record.schedule import Schedule
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.sharding import Ranges
from ckptlab.record.state.training import Training
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.power_loss import surviving_lengths
from ckptlab.store.read.reader import StoredArray, StoredRun, open_latest, read_root
from ckptlab.store.write.writer import StoreWriter


def require_resumable(
    stored: StoredRun, captured: Capture, schedule: Schedule, observe: Schedule | None
) -> None:
    """Raise LayoutError for another model's run, ConfigError for another schedule."""
    require_same_layout(stored.layout, captured.layout)
    if not captured.complete:
        raise ConfigError("a trainable parameter is excluded, so training cannot be resumed")
    recorded = stored.attributes.get("schedule")
    if recorded != schedule.text:
        raise ConfigError(
            f"steps={schedule.text!r} is not the schedule of the run, {recorded!r}; give that one"
        )
    observed, given = stored.attributes.get("observe"), None if observe is None else observe.text
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


def restore(stored: StoredRun, captured: Capture, training: Training) -> int:
    """Set model, optimizers and attached state to the last anchor; return its step."""
    if not len(stored.anchors):
        return int(stored.attributes.get("start_step", 0))
    step = int(stored.anchors[-1])
    load_model(captured, lambda name: read_vector(captured, stored, step, name))
    if captured.parts is None:
        training.restore(captured, stored.anchor(step))
    else:
        ranges = Ranges.join(captured.parts.ranges)
        read = partial(_read_column, ranges)
        training.restore(captured, stored.anchor(step, read))
    return step


def _read_column(ranges: Ranges, array: StoredArray, column: int) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = read_ranges(array, slice(column, column + 1), ranges)[0]
    return values


def read_vector(
    captured: Capture, stored: StoredRun, step: int, name: str = "weights"
) -> npt.NDArray[Any]:
    """Read a snapshot: what this process holds of it, where the model is sharded."""
    if captured.parts is None or name not in ("weights", "gradients"):
        return stored.snapshot(step, name)
    ranges = Ranges.join(captured.parts.ranges)
    return _read_column(ranges, stored.array(name), stored.column(step))


def cut_after(writer: StoreWriter, step: int, schedule: Schedule, plan: Mapping[str, Any]) -> None:
    """Drop what follows the restored step. What `plan` sets replaces the run's attributes."""
    # A last state outside the schedule would not be there had the run gone on.
    kept = writer.steps.index(step) + (step in schedule) if writer.anchors else 0
    writer.set_attributes(**{key: value for key, value in plan.items() if value})
    # Later: the other ranks may still be reading the step that is restored.
    # Where nothing is kept, the first state is observed again.
    observed = sum(seen <= step for seen in writer.observed) if kept else 0
    writer.cut(kept, later=True, observed=observed)


def require_at(stored: StoredRun, captured: Capture, step: int, schedule: Schedule) -> None:
    """Raise ConfigError if the run does not reach a step, or holds another state there."""
    start = int(stored.attributes.get("start_step", 0))
    kept = _kept(stored.steps.tolist(), step, schedule)
    wanted = schedule.steps(step + 1)
    wanted = wanted[wanted >= start]
    if step < start or len(kept) < len(wanted):
        end = f"ends at step {kept[-1]}" if kept else "holds no step before"
        raise ConfigError(
            f"at={step}: the run begins at step {start} and {end}, so that steps would be missing; "
            "begin from an earlier checkpoint, or record to another path with start=",
            parameter="at",
        )
    if step in stored.steps:
        recorded = captured.local.split({"weights": read_vector(captured, stored, step)})
        for tensor, parameter in zip(captured.local.tensors, captured.tensors, strict=True):
            if not np.array_equal(
                recorded[tensor.name], parameter.detach().float().cpu().numpy(), equal_nan=True
            ):
                raise ConfigError(
                    f"at={step}: parameter {tensor.name!r} is not what the run recorded at that "
                    "step; load the checkpoint of that step first, or record to another path",
                    parameter="at",
                )


def cut_at(writer: StoreWriter, step: int, schedule: Schedule, plan: Mapping[str, Any]) -> None:
    """Cut the run after a step, at which the model is already, as `cut_after` does."""
    writer.set_attributes(**{key: value for key, value in plan.items() if value})
    observed = sum(seen <= step for seen in writer.observed)
    kept = _kept(writer.steps, step, schedule)
    writer.cut(len(kept), later=True, observed=observed)


def _kept(steps: Sequence[int], step: int, schedule: Schedule) -> list[int]:
    return [recorded for recorded in steps if recorded <= step and recorded in schedule]


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
    return restore(open_latest(storage), captured, training)


@torch.no_grad()
def load_model(captured: Capture, read: Callable[[str], npt.NDArray[np.generic]]) -> None:
    """Set parameters and buffers to one snapshot; `read` returns the vector of an array by name."""
    live = {array: captured.live_buffers(array) for array in captured.buffers}
    for name, tensors in {"weights": captured.tensors, **live}.items():
        parts = captured.local.split({name: torch.from_numpy(np.array(read(name)))}).values()
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part)


def refill(buffer: BlockBuffer, writer: StoreWriter | ShardedWriter, captured: Capture) -> None:
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
        if name in buffer.views and captured.parts and not name.startswith("buffers"):
            columns = slice(buffer.start, kept)
            ranges = Ranges.join(captured.parts.ranges)
            values = read_ranges(stored.array(name), columns, ranges)
        elif name in buffer.views:
            values = stored.array(name).read_block(buffer.start // writer.block)
        else:
            series = stored.small(name)[..., buffer.start :]
            values = np.atleast_2d(series).T if series.ndim == 2 else series[:, None]
        rows[: buffer.count].copy_(torch.from_numpy(np.ascontiguousarray(values)))
    for name in HOST_SERIES:
        buffer.series[name][: buffer.count] = stored.small(name)[buffer.start :]
