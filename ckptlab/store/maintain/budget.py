"""Share memory among the threads that check a run, before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ckptlab.cores import count_cores
from ckptlab.errors import ConfigError, spell
from ckptlab.store.format.shards import CHUNKS_A_READ, Grid, is_sharded
from ckptlab.store.format.zarr_metadata import ArrayMetadata

DEFAULT_MEMORY = 2**31

RESERVED = 400 * 2**20
"""What the interpreter and its libraries take."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many threads decode how many inner chunks at a time, and the bytes all of that takes."""

    threads: int
    chunks: int
    bytes: int


def share_memory(metadata: Mapping[str, ArrayMetadata], memory: int) -> Budget:
    """Choose the largest stretches and most threads that fit; ConfigError if not one chunk does."""
    grids = [Grid.of(document) for document in metadata.values() if is_sharded(document)]
    chunk = max((math.prod(g.chunk) * g.dtype.itemsize for g in grids), default=0)

    def need(threads: int, chunks: int) -> int:
        # Encoded and decoded stretches, and the chunk at hand with its copy.
        return RESERVED + chunk * (threads * (2 * chunks + 2) + CHUNKS_A_READ)

    threads, chunks = count_cores(), CHUNKS_A_READ
    while need(threads, chunks) > memory and threads * chunks > 1:
        threads, chunks = (threads, chunks // 2) if chunks > 1 else (threads // 2, chunks)
    if need(threads, chunks) > memory:
        least = need(1, 1) // 2**20 + 1
        raise ConfigError(
            f"{spell('memory', f'{memory / 2**20:.0f}MiB')} is too little to check this run; "
            f"give at least {least}MiB",
            parameter="memory",
            fix=f"{least}MiB",
        )
    return Budget(threads, chunks, need(threads, chunks))
