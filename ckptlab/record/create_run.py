"""Create the store of a new recording: its block size, capacity and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.record.defaults import AUTO, CODEC
from ckptlab.record.environment import describe_environment
from ckptlab.record.pipeline.buffers import block_size, bytes_per_step
from ckptlab.record.schedule import Schedule
from ckptlab.record.state.model_tensors import Capture
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.zarr_metadata import shard_rows
from ckptlab.store.write.writer import StoreWriter

OPEN_ENDED_CAPACITY = 1024
"""Steps allocated at first for a schedule without an end."""


def create_run(
    storage: Storage,
    captured: Capture,
    schedule: Schedule,
    *,
    arrays: Sequence[str],
    codec: str,
    memory: int,
    mask: npt.NDArray[np.bool_] | None,
    overwrite: bool,
    sync_seconds: float,
    observed: bool,
    total_steps: int | None,
    attributes: dict[str, Any],
) -> StoreWriter:
    """Create a run of no steps; the arguments are those of the Recorder."""
    gradients = [name for name in arrays if name != "weights"]
    step_bytes = bytes_per_step(captured.layout, gradients=bool(gradients))
    held = step_bytes
    if captured.parts is not None:
        # Two buffers, and what is sent, received and encoded of a shard at a time.
        local = bytes_per_step(captured.local, gradients=bool(gradients))
        shard = 4 * shard_rows(captured.layout.parameters)
        held = (2 * local + 3 * shard) // 3
    ends = [schedule.end, None if total_steps is None else total_steps + 1]
    end = min((end for end in ends if end is not None), default=None)
    planned = None if end is None else len(schedule.steps(end)) + 1
    if captured.device.type == "cuda":
        # Two optimizer states of usually two vectors are on their way to the host.
        anchors = 2 * 2 * 4 * captured.local.parameters
        memory = max(memory - anchors, min(memory, 3 * held))
    return StoreWriter.create(
        storage,
        captured.layout,
        block=block_size(step_bytes, memory, planned, held=held),
        codec=CODEC if codec == AUTO else codec,
        attributes={**attributes, **describe_environment(captured.device)},
        optional=gradients,
        mask=mask,
        observed=observed,
        capacity=OPEN_ENDED_CAPACITY if planned is None else planned,
        overwrite=overwrite,
        sync_seconds=sync_seconds,
    )
