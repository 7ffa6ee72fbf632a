"""Read blocks: the pieces of a large array that one task visits, chunk by chunk.

A `StoredBlock` reads its shard from the store; a `MemoryBlock` holds values that dask hands to the
task. Both are small to describe and can be pickled.
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

    def take(self, rows: Array, columns: Array) -> Array:
        """Return some rows (increasing) at some steps, float32, shape (rows, columns)."""
        ...


@dataclass(frozen=True)
class StoredBlock:
    """A shard of a stored array, or some whole chunks of it.

    Parameters
    ----------
    array : StoredArray
        Where it is read from.
    i, j : int
        Position along the parameters and along the steps.
    part : range, optional
        The chunks of the shard, where it is not read as a whole but one after the other.
    """

    array: StoredArray
    i: int
    j: int
    part: range | None = None

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Read and decode chunk by chunk."""
        height = self.array.chunk[0]
        if self.part is not None:
            for c, chunk in self.array.read_chunks(self.i, self.j, np.array(self.part)):
                yield (c - self.part.start) * height, chunk
            return
        shard = self.array.read_shard(self.i, self.j)
        buffer = np.empty(self.array.chunk, np.float32)
        for c in range(shard.chunk_count):
            yield c * height, shard.decode(c, buffer)

    def take(self, rows: Array, columns: Array) -> Array:
        """Read and decode only the chunks that hold one of the rows."""
        height, per_shard = self.array.chunk[0], self.array.grid.chunks_per_shard
        if self.part is not None:
            rows = rows + self.part.start * height
        out = np.empty((len(rows), len(columns)), np.float32)
        edges = np.searchsorted(rows, np.arange(per_shard + 1) * height)
        for c, chunk in self.array.read_chunks(self.i, self.j, np.flatnonzero(np.diff(edges))):
            a, b = edges[c : c + 2]
            out[a:b] = _pick(chunk, rows[a:b] - c * height, columns)
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

    def take(self, rows: Array, columns: Array) -> Array:
        """Index the values."""
        return np.asarray(_pick(self.values, rows, columns), np.float32)


def take_snapshots(block: Block, rows: int, columns: Array) -> Array:
    """Read all rows of a block at some steps, float32, shape (columns, rows)."""
    out = np.empty((len(columns), rows), np.float32)
    for start, chunk in block.chunks():
        part = out[:, start : start + len(chunk)]
        np.copyto(part, chunk[: part.shape[1], columns].T)
    return out


def _pick(values: Array, rows: Array, columns: Array) -> Array:
    """Index by rows and columns, with slices where they are contiguous."""
    picked: Array = values[_stretch(rows)]
    found: Array = picked[:, _stretch(columns)]
    return found


def _stretch(index: Array) -> Any:
    together = len(index) > 0 and index[-1] - index[0] == len(index) - 1
    return slice(index[0], index[-1] + 1) if together else index
