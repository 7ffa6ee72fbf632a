"""One large array of a run, read whole shards at a time.

Imports shards, storage and errors.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.arrays import Document
from ckptlab.store.shards import Grid, Shard, shard_key
from ckptlab.store.storage import ROOT, MissingObjectError, Storage, open_storage


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
        # Where it is unpickled, the working folder may be another.
        path = self.path if "://" in self.path else str(Path(self.path).absolute())
        return StoredArray, (path, self.name, self._document)

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
        if self._storage is None:
            self._storage = open_storage(self.path)
        key = shard_key(self.name, i, j)
        label = f"{self.path}/{key}"
        try:
            data = self._storage.get(key, limit=self.grid.max_bytes)
            return Shard(data, self.grid, i, j, label)
        except MissingObjectError as error:
            if self._storage.size(ROOT) is None:
                raise StoreError(
                    f"there is no run at {self.path}, seen from {socket.gethostname()}; put it "
                    "where every worker finds it under this path, or use scheduler=threads"
                ) from error
            raise CorruptError(f"{label} is missing; run ckptlab verify") from error

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
        for start, chunk in self._chunks(j):
            part = values[start : start + self.chunk[0]]
            np.copyto(part, chunk[: len(part), within])
        return values

    def _chunks(self, j: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        out = np.empty(self.chunk, self.grid.dtype)
        for i in range(self.grid.shard_grid[0]):
            shard = self.read_shard(i, j)
            for c in range(shard.chunk_count):
                yield shard.rows.start + c * self.chunk[0], shard.decode(c, out)
