"""Read one large array: whole shards, single chunks, or the steps and parameters asked for."""

from __future__ import annotations

import contextlib
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
from ckptlab.store.backends.base import ROOT, MissingObjectError, Storage, oversized
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.shards import CHUNKS_A_READ, Grid, Shard, shard_key
from ckptlab.store.format.zarr_metadata import ArrayMetadata

CHUNKS_A_THREAD = 4
"""Fewer chunks than this are not worth a thread of their own."""

MAX_WHOLE = 2**26
"""Decoded bytes up to which a shard is read in one request."""


def absolute(path: str) -> str:
    """Return the path as it reads from another working folder."""
    return path if "://" in path else str(Path(path).absolute())


class StoredArray:
    """One large array, dims (param, step). Small and picklable.

    `storage` is opened from `path` if it is not given.
    """

    def __init__(
        self, path: str, name: str, document: ArrayMetadata, storage: Storage | None = None
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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.grid.dtype

    ndim = 2

    def __getitem__(self, key: tuple[Any, Any]) -> npt.NDArray[Any]:
        """Read what a slice, a number or an array of numbers selects along each dim, as dask does.

        Arrays select along their own dim, as xarray has it.
        """
        rows, row_key = _bounds(key[0], self.shape[0])
        columns, column_key = _bounds(key[1], self.shape[1])
        # One thread: dask runs as many of these as there are cores.
        values = self.read(rows, columns, threads=1)[:, column_key]
        selected: npt.NDArray[Any] = values[row_key]
        return selected

    def read_shard(self, i: int, j: int) -> Shard:
        """Read the whole shard at row `i` and block `j`, still encoded.

        CorruptError if it is damaged or missing; StoreError if this machine sees no run at the
        path.
        """
        return Shard(self._whole(i, j), self.grid, i, j, self._label(i, j))

    def open_shard(self, i: int, j: int) -> Shard:
        """Read the index of a shard alone; its chunks are fetched as they are asked for."""
        parts = _FileParts(self._opened(), shard_key(self.name, i, j), self.grid.max_bytes)
        return Shard(parts, self.grid, i, j, self._label(i, j))

    def fitting_shard(self, i: int, j: int) -> Shard:
        """Read a shard whole, unless it is so large that its chunks had better be fetched."""
        small = self.shard[0] * self.shard[1] * self.dtype.itemsize <= MAX_WHOLE
        return self.read_shard(i, j) if small else self.open_shard(i, j)

    def read_chunks(
        self, i: int, j: int, chosen: npt.NDArray[np.integer[Any]]
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield some chunks of a shard, decoded, and read no more of its file than needed.

        `chosen` and what is yielded beside each chunk are positions along the parameters.
        """
        few = 2 * len(chosen) <= self.grid.chunks_per_shard
        shard = None
        for c in chosen.tolist():
            try:
                if shard is None:
                    shard = self.open_shard(i, j) if few else self.read_shard(i, j)
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
        start = j * self.shard[1]
        stop = min(start + self.shard[1], self.shape[1])
        out = np.empty((stop - start, self.shape[0]), self.dtype)
        self._fill(out.T, slice(0, self.shape[0]), slice(start, stop))
        return out

    def read_column(self, column: int, *, check: bool = True) -> npt.NDArray[Any]:
        """Read one step, shape (param,).

        Without `check`, an array that is stored step by step gives that step alone, and its
        checksums are not compared: for callers that know the digest of the values.
        """
        rows = slice(0, self.shape[0])
        if check or not self.grid.codec.by_step:
            return self.read(rows, slice(column, column + 1))[:, 0]
        out = np.empty(self.shape[0], self.dtype)
        j, within = divmod(column, self.shard[1])
        for i in range(self.grid.shard_grid[0]):
            shard = self.open_shard(i, j)
            for c in range(shard.chunk_count):
                place = out[shard.rows][c * self.chunk[0] : (c + 1) * self.chunk[0]]
                place[:] = shard.step(c, within)[: len(place)]
        return out

    def read(self, rows: slice, columns: slice, threads: int | None = None) -> npt.NDArray[Any]:
        """Read a stretch of parameters at consecutive steps, shape (rows, columns).

        Only the chunks that hold some of it are read and decoded, a few at a time.
        """
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        self._fill(out, rows, columns, threads)
        return out

    def _fill(
        self, out: npt.NDArray[Any], rows: slice, columns: slice, threads: int | None = None
    ) -> None:
        """Decode into `out`, shape (rows, columns), on as many threads as are worth it."""
        if not out.size:
            return
        height, (shard_rows, width) = self.chunk[0], self.shard
        chunks = -(-rows.stop // height) - rows.start // height
        chunks = min(chunks, self.grid.chunks_per_shard)
        threads = max(1, min(threads or count_cores(), chunks // CHUNKS_A_THREAD))
        a_read = min(CHUNKS_A_READ, -(-chunks // threads))
        with contextlib.ExitStack() as stack:
            each: Any = map
            if threads > 1:
                each = stack.enter_context(ThreadPoolExecutor(threads)).map
            for j in range(columns.start // width, -(-columns.stop // width)):
                for i in range(rows.start // shard_rows, -(-rows.stop // shard_rows)):
                    first = max(rows.start - i * shard_rows, 0) // height
                    last = -(-(min(rows.stop, (i + 1) * shard_rows) - i * shard_rows) // height)
                    parts = [range(c, min(c + a_read, last)) for c in range(first, last, a_read)]
                    whole = 2 * (last - first) > self.grid.chunks_per_shard
                    shard = self.fitting_shard(i, j) if whole else self.open_shard(i, j)
                    copy = partial(self._copy, shard, out, rows, columns)
                    list(each(copy, parts))

    def _copy(
        self, shard: Shard, out: npt.NDArray[Any], rows: slice, columns: slice, chunks: range
    ) -> None:
        """Decode consecutive chunks of a shard, and copy what lies within rows and columns."""
        a, b = max(shard.columns.start, columns.start), min(shard.columns.stop, columns.stop)
        buffer = np.empty(self.chunk, self.dtype)
        try:
            loaded = shard.loaded(chunks)
            for c in chunks:
                start = shard.rows.start + c * self.chunk[0]
                first, last = max(start, rows.start), min(start + self.chunk[0], rows.stop)
                decoded = loaded.decode(c, buffer)
                place = out[first - rows.start : last - rows.start]
                part = decoded[first - start : last - start]
                np.copyto(
                    place[:, a - columns.start : b - columns.start],
                    part[:, a - shard.columns.start : b - shard.columns.start],
                )
        except CorruptError:
            if shard.is_whole:
                raise
            # A block that is still growing may have been replaced between two reads.
            i, j = shard.rows.start // self.shard[0], shard.columns.start // self.shard[1]
            self._copy(self.read_shard(i, j), out, rows, columns, chunks)

    def _whole(self, i: int, j: int) -> bytes:
        storage, key = self._opened(), shard_key(self.name, i, j)
        try:
            return storage.get(key, limit=self.grid.max_bytes)
        except MissingObjectError as error:
            if storage.size(ROOT) is None:
                raise StoreError(
                    f"there is no run at {self.path}, seen from {socket.gethostname()}; put it "
                    "where every worker finds it under this path, or use scheduler=threads"
                ) from error
            raise _missing(self._label(i, j)) from error

    def _opened(self) -> Storage:
        if self._storage is None:
            self._storage = open_storage(self.path)
        return self._storage

    def _label(self, i: int, j: int) -> str:
        return f"{self.path}/{shard_key(self.name, i, j)}"


def _bounds(key: Any, length: int) -> tuple[slice, Any]:
    """Return the stretch of an axis that holds what a key selects, and the key within it."""
    if isinstance(key, slice):
        chosen = range(length)[key]
        step = slice(None, None, chosen.step)
        if not chosen:
            return slice(0, 0), step
        # Not min() and max(), which visit every number of a range.
        return slice(min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1), step
    index = np.asarray(key)
    index = np.flatnonzero(index) if index.dtype == bool else index % length
    if not index.size:
        return slice(0, 0), index
    return slice(int(index.min()), int(index.max()) + 1), index - index.min()


class _FileParts:
    """A shard's file, read where it is sliced; CorruptError if it is not there."""

    def __init__(self, storage: Storage, key: str, limit: int) -> None:
        label = f"{storage.path}/{key}"
        size = storage.size(key)
        if size is None:
            raise _missing(label)
        if size > limit:
            raise oversized(label, size, limit)
        self._storage, self._key, self._label, self._size = storage, key, label, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        try:
            return self._storage.get_part(self._key, start, stop)
        except MissingObjectError as error:
            raise _missing(self._label) from error


def _missing(label: str) -> CorruptError:
    return CorruptError(f"{label} is missing; run ckptlab verify", file=label, problem="is missing")
