"""Blocks: the pieces of a large array that one task reads, and their decoded chunks.

A `StoredBlock` is a shard that the task itself reads from disk; a `MemoryBlock`
holds values that dask hands to the task. Both are small to describe and can be pickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ckptlab.store.format.zarr_metadata import CHUNK_PARAMETERS
from ckptlab.store.read.reader import StoredArray

Array = npt.NDArray[Any]


class Block(Protocol):
    """A stretch of parameters at some consecutive recorded steps."""

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Yield (first row within the block, float32 chunk in C order), from the first row on.

        A chunk is valid until the next is asked for; what lies beyond the block is padding.
        """
        ...

    def take(self, rows: Array) -> Array:
        """Return the given rows (increasing, within the block), float32, shape (rows, steps)."""
        ...


@dataclass(frozen=True)
class StoredBlock:
    """A shard of a stored array.

    Parameters
    ----------
    array : StoredArray
        Where it is read from.
    i, j : int
        Position along the parameters and along the steps.
    """

    array: StoredArray
    i: int
    j: int

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Read the shard and decode it chunk by chunk into one buffer."""
        shard = self.array.read_shard(self.i, self.j)
        buffer = np.empty(self.array.chunk, np.float32)
        for c in range(shard.chunk_count):
            yield c * self.array.chunk[0], shard.decode(c, buffer)

    def take(self, rows: Array) -> Array:
        """Read and decode only the chunks that hold one of the rows."""
        height, block = self.array.chunk[0], self.array.shard[1]
        columns = min(block, self.array.shape[1] - self.j * block)
        out = np.empty((len(rows), columns), np.float32)
        edges = np.searchsorted(rows, np.arange(self.array.grid.chunks_per_shard + 1) * height)
        for c, chunk in self.array.read_chunks(self.i, self.j, np.flatnonzero(np.diff(edges))):
            a, b = edges[c : c + 2]
            within = rows[a:b] - c * height
            together = within[-1] - within[0] == b - a - 1
            part = slice(within[0], within[-1] + 1) if together else within
            out[a:b] = chunk[part, :columns]
        return out


@dataclass(frozen=True)
class MemoryBlock:
    """Values in memory, shape (param, step)."""

    values: Array

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Cut the values into chunks."""
        for start in range(0, len(self.values), CHUNK_PARAMETERS):
            part = self.values[start : start + CHUNK_PARAMETERS]
            yield start, np.require(part, np.float32, ["C", "W"])

    def take(self, rows: Array) -> Array:
        """Index the values."""
        return np.asarray(self.values[rows], np.float32)
