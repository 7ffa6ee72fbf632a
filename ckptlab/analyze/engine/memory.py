"""Count beforehand how much memory a measurement takes, and cut its tasks to fit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import MemoryLimitWarning
from ckptlab.errors import ConfigError, spell
from ckptlab.record.memory import parse_memory

DEFAULT = "2GiB"

RESERVED = 400 * 2**20
"""What the interpreter and its libraries take, beside the tasks."""


@dataclass(frozen=True)
class Share:
    """How tasks are cut: each shard into some pieces, so many tasks at a time.

    `bytes` is what one task may hold.
    """

    pieces: int
    workers: int
    bytes: int


def share_memory(
    source: Source,
    array: str,
    row_bytes: int,
    workers: int,
    memory: Any = None,
    task_bytes: int = 0,
) -> Share:
    """Choose the largest tasks that fit the memory, and fewer at a time where none does.

    `row_bytes` is what a task holds for each parameter beside the encoded shard, and `task_bytes`
    what it holds whatever its parameters. ConfigError if not even one task fits.
    """
    text = DEFAULT if memory is None else memory
    free = parse_memory(text) - RESERVED
    stored = source.stored_array(array)
    if stored is None:
        return Share(1, workers, max(free, 2**26) // workers)
    (shard, width), height = stored.shard, stored.chunk[0]
    item = stored.grid.dtype.itemsize
    rows = min(shard, -(-stored.shape[0] // height) * height)
    chunks = -(-rows // height)
    buffers = 2 * height * width * item + task_bytes

    def need(pieces: int) -> int:
        taken = -(-chunks // pieces) * height
        # A whole shard is read at once, a part of it chunk by chunk.
        return taken * (row_bytes + (width * item if pieces == 1 else 0)) + buffers

    pieces = 1
    while pieces < chunks and workers * need(pieces) > free:
        pieces = min(2 * pieces, chunks)
    fit = min(workers, free // need(pieces))
    if fit < 1:
        least = (RESERVED + need(pieces)) // 2**20 + 1
        raise ConfigError(
            f"{spell('memory', text)} is too little for this measurement; it needs at least "
            f"{least}MiB",
            parameter="memory",
            fix=f"{least}MiB",
        )
    if fit < workers:
        warnings.warn(
            f"{spell('memory', text)} allows {fit} of {workers} tasks at a time, "
            f"{need(pieces) / 2**20:.0f} MiB each; more memory measures faster",
            MemoryLimitWarning,
            stacklevel=4,
        )
    return Share(pieces, fit, free // fit)
