"""One large array of a run, read whole shards at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.cores import count_cores
from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.base import ROOT, MissingObjectError, Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.shards import Grid, Shard, shard_key
from ckptlab.store.format.zarr_metadata import Document

CHUNKS_A_THREAD = 4
"""So many are worth a thread of their own to decode them, where one step is read."""


def absolute(path: str) -> str:
    """Return what the path is called where the working folder may be another."""
    return path if "://" in path else str(Path(path).absolute())


class StoredArray:
    """One large array, read whole shards at a time. Small and picklable.

    Parameters
    ----------
    path : str
        Of the run.
    name : str
        Of the array.
    document : dict
        Its metadata.
    storage : Storage, optional
        Opened from `path` if not given.
    """

    def __init__(
        self, path: str, name: str, document: Document, storage: Storage | None = None
    ) -> None:
        self.path = path
        self.name = name
        self._document = document
        self._storage = storage
        self.grid = Grid.of(document)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredArray, (absolute(self.path), self.name, self._document)

    @property
    def shape(self) -> tuple[int, int]:
        """Parameters and recorded steps."""
        return self.grid.shape

    @property
    def chunk(self) -> tuple[int, int]:
        """Parameters and steps of an inner chunk."""
        return self.grid.chunk

    @property
    def shard(self) -> tuple[int, int]:
        """Parameters and steps of a shard."""
        return self.grid.shard

    def read_shard(self, i: int, j: int) -> Shard:
        """Read the shard at row `i` along the parameters and block `j`.

        Parameters
        ----------
        i, j : int
            Its position.

        Returns
        -------
        Shard
            Still encoded.

        Raises
        ------
        CorruptError
            If it is damaged or missing.
        StoreError
            If there is no run at the path, as seen from this machine.
        """
        return Shard(self._whole(i, j), self.grid, i, j, self._label(i, j))

    def read_chunks(
        self, i: int, j: int, chosen: npt.NDArray[np.integer[Any]]
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Read some inner chunks of a shard, and no more of its file than is needed.

        Parameters
        ----------
        i, j : int
            Position of the shard.
        chosen : ndarray of int
            Positions of the chunks along the parameters of the shard.

        Yields
        ------
        int, ndarray
            Each of them, decoded.

        Raises
        ------
        CorruptError
            If one is damaged or missing.
        """
        few = 2 * len(chosen) <= self.grid.chunks_per_shard
        shard = None
        for c in chosen.tolist():
            try:
                if shard is None:
                    shard = self._sparse(i, j) if few else self.read_shard(i, j)
                chunk = shard.decode(c)
            except CorruptError:
                if not few:
                    raise
                # A block that is still growing may have been replaced between two reads.
                few, shard = False, self.read_shard(i, j)
                chunk = shard.decode(c)
            yield c, chunk

    def read_block(self, j: int) -> npt.NDArray[Any]:
        """Read block `j` whole, shape (steps, param): step by step, as it was recorded."""
        columns = slice(j * self.shard[1], min((j + 1) * self.shard[1], self.shape[1]))
        rows = np.empty((columns.stop - columns.start, self.shape[0]), self.grid.dtype)
        for start, chunk in self._chunks(j):
            part = rows[:, start : start + self.chunk[0]]
            np.copyto(part, chunk[: part.shape[1], : part.shape[0]].T)
        return rows

    def read_column(self, column: int) -> npt.NDArray[Any]:
        """Read one step, shape (param,)."""
        j, within = divmod(column, self.shard[1])
        values = np.empty(self.shape[0], self.grid.dtype)
        for i in range(self.grid.shard_grid[0]):
            shard = self.read_shard(i, j)
            threads = max(1, min(count_cores(), shard.chunk_count // CHUNKS_A_THREAD))
            fill = partial(_fill, shard, values[shard.rows], within)
            parts = [slice(k, None, threads) for k in range(threads)]
            if threads == 1:
                fill(parts[0])
                continue
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, parts))
        return values

    def _chunks(self, j: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        out = np.empty(self.chunk, self.grid.dtype)
        for i in range(self.grid.shard_grid[0]):
            shard = self.read_shard(i, j)
            for c in range(shard.chunk_count):
                yield shard.rows.start + c * self.chunk[0], shard.decode(c, out)

    def _sparse(self, i: int, j: int) -> Shard:
        parts = _FileParts(self._opened(), shard_key(self.name, i, j), self.grid.max_bytes)
        return Shard(parts, self.grid, i, j, self._label(i, j))

    def _whole(self, i: int, j: int) -> bytes:
        storage = self._opened()
        try:
            return storage.get(shard_key(self.name, i, j), limit=self.grid.max_bytes)
        except MissingObjectError as error:
            if storage.size(ROOT) is None:
                raise StoreError(
                    f"there is no run at {self.path}, seen from {socket.gethostname()}; put it "
                    "where every worker finds it under this path, or use scheduler=threads"
                ) from error
            raise CorruptError(f"{self._label(i, j)} is missing; run ckptlab verify") from error

    def _opened(self) -> Storage:
        if self._storage is None:
            self._storage = open_storage(self.path)
        return self._storage

    def _label(self, i: int, j: int) -> str:
        return f"{self.path}/{shard_key(self.name, i, j)}"


def _fill(shard: Shard, values: npt.NDArray[Any], within: int, part: slice) -> None:
    """Decode some chunks of a shard, and take one step out of each."""
    out = None
    for c in range(shard.chunk_count)[part]:
        out = shard.decode(c, out)
        place = values[c * len(out) : (c + 1) * len(out)]
        np.copyto(place, out[: len(place), within])


class _FileParts:
    """A shard's file, read where it is sliced; CorruptError if it is not there."""

    def __init__(self, storage: Storage, key: str, limit: int) -> None:
        size = storage.size(key)
        if size is None or size > limit:
            raise CorruptError(f"{key} has {size} bytes")
        self._storage, self._key, self._size = storage, key, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        try:
            return self._storage.get_part(self._key, start, stop)
        except MissingObjectError as error:
            raise CorruptError(f"{self._key} is missing") from error
