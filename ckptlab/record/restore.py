"""Taking a run up again: model, optimizer and the partly filled block, as they were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError, LayoutError, RecordingError
from ckptlab.record.pipeline.buffers import HOST_SERIES, Buffer
from ckptlab.record.schedule import Schedule
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.optimizer import restore_state
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.power_loss import surviving_lengths
from ckptlab.store.read.reader import open_latest, read_root
from ckptlab.store.write.writer import StoreWriter


def require_resumable(writer: StoreWriter, captured: Capture, schedule: Schedule) -> None:
    """Refuse to continue another model's run, or on another schedule.

    Parameters
    ----------
    writer : StoreWriter
        Of the run.
    captured : Capture
        The model's parameters.
    schedule : Schedule
        As given now.

    Raises
    ------
    LayoutError
        If a tensor has another name, shape or type.
    ConfigError
        If the schedule is another, or a trainable parameter is not recorded.
    """
    require_same_layout(writer.layout, captured.layout)
    if not captured.complete:
        raise ConfigError("a trainable parameter is excluded, so training cannot be resumed")
    recorded = writer.attributes.get("schedule")
    if recorded != schedule.text:
        raise ConfigError(
            f"steps={schedule.text!r} is not the schedule of the run, {recorded!r}; give that one"
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
    optimizer: torch.optim.Optimizer | None,
    schedule: Schedule,
) -> int:
    """Set model and optimizer to the last anchor.

    Parameters
    ----------
    writer : StoreWriter
        Of a run that has an anchor.
    captured : Capture
        Live parameters and buffers; overwritten.
    optimizer : Optimizer or None
        Overwritten.
    schedule : Schedule
        Of the run.

    Returns
    -------
    int
        How many of the recorded steps stay.
    """
    step = writer.anchors[-1]
    position = writer.steps.index(step)
    stored = writer.stored()
    load_model(captured, lambda name: stored.snapshot(step, name))
    anchor = stored.anchor(step)
    if anchor is not None:
        restore_state(optimizer, captured, anchor)
    # A last state outside the schedule would not be there had the run gone on.
    return position + (step in schedule)


def restore_beside(
    storage: Storage, captured: Capture, optimizer: torch.optim.Optimizer | None
) -> int:
    """Set model and optimizer to the last anchor, on a rank that does not write.

    Parameters
    ----------
    storage : Storage
        Where the run lies; the first rank takes it up at the same time.
    captured : Capture
        Live parameters and buffers; overwritten.
    optimizer : Optimizer or None
        Overwritten.

    Returns
    -------
    int
        Updates done, as `restore` finds it.

    Raises
    ------
    RecordingError
        If the first rank may go by more than is seen here.
    """
    if surviving_lengths(read_root(storage)[0]) is not None:
        raise RecordingError(
            f"{storage.path} was left by one process on another machine, or before this one "
            "booted, so that ranks may differ about where it ends; take it up once with one "
            "process (enter the recorder and leave), then with several"
        )
    # By the markers, which may be ahead of the view, as the first rank goes.
    stored = open_latest(storage)
    if not len(stored.anchors):
        return int(stored.attributes.get("start_step", 0))
    step = int(stored.anchors[-1])
    load_model(captured, lambda name: stored.snapshot(step, name))
    anchor = stored.anchor(step)
    if anchor is not None:
        restore_state(optimizer, captured, anchor)
    return step


@torch.no_grad()
def load_model(captured: Capture, read: Callable[[str], npt.NDArray[np.generic]]) -> None:
    """Set parameters and buffers to one snapshot.

    Parameters
    ----------
    captured : Capture
        Live parameters and buffers; overwritten.
    read : callable
        Returns the vector of an array by name.
    """
    live = {array: captured.live_buffers(array) for array in captured.buffers}
    for name, tensors in {"weights": captured.parameters, **live}.items():
        parts = captured.layout.split({name: torch.from_numpy(np.array(read(name)))}).values()
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part)


def refill(buffer: Buffer, writer: StoreWriter) -> None:
    """Fill a buffer with the partly filled last block, so that it can be extended.

    Parameters
    ----------
    buffer : Buffer
        Empty.
    writer : StoreWriter
        Already cut at what stays.
    """
    kept = len(writer.steps)
    buffer.start = kept // writer.block * writer.block
    buffer.count = kept - buffer.start
    if not buffer.count:
        return
    stored = writer.stored()
    for name, rows in buffer.device_rows.items():
        if name in buffer.views:
            values = stored.array(name).read_block(buffer.start // writer.block)
        else:
            series = stored.small(name)[..., buffer.start :]
            values = np.atleast_2d(series).T if series.ndim == 2 else series[:, None]
        rows[: buffer.count].copy_(torch.from_numpy(np.ascontiguousarray(values)))
    for name in HOST_SERIES:
        buffer.series[name][: buffer.count] = stored.small(name)[buffer.start :]
