"""Shards: one block of steps of a large array, encoded to a file and decoded from it.

A shard is the concatenation of its inner chunks followed
by an index of (offset, length) pairs and the index's checksum, as Zarr's ``sharding_indexed``
defines it. Zarr could write it, but with a copy of the whole block, its event loop, and no say in
which core does the work; this is the hot path of recording.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError
from ckptlab.store.format.checksum import Bytes, checksum, checksummed, verified
from ckptlab.store.format.codecs import Array, Codec, codec_of
from ckptlab.store.format.shard_buffer import Sheet
from ckptlab.store.format.zarr_metadata import ArrayMetadata

CHUNKS_A_READ = 16
"""Chunks that are fetched at once where a shard is too large to be held whole."""

EncodeMap = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Grid:
    """How a large array is cut into shards and inner chunks.

    Parameters
    ----------
    shape : tuple of int
        Parameters and committed steps.
    chunk, shard : tuple of int
        Parameters and steps of an inner chunk and of a shard.
    codec : Codec
        Of the inner chunks.
    dtype : numpy dtype
        Of the elements.
    fill : float
        Of what was not written.
    """

    shape: tuple[int, int]
    chunk: tuple[int, int]
    shard: tuple[int, int]
    codec: Codec
    dtype: np.dtype[Any]
    fill: float

    @classmethod
    def of(cls, document: ArrayMetadata) -> Grid:
        """Read the grid from an array's metadata; ValueError or KeyError if it is another kind."""
        sharding = document["codecs"][0]
        settings = sharding["configuration"]
        codec = codec_of(settings["codecs"])
        rows, columns = (int(n) for n in document["shape"])
        shard_rows, shard_columns = (
            int(n) for n in document["chunk_grid"]["configuration"]["chunk_shape"]
        )
        chunk_rows, chunk_columns = (int(n) for n in settings["chunk_shape"])
        sound = (
            sharding["name"] == "sharding_indexed"
            and codec is not None
            and settings["index_location"] == "end"
            and 0 < chunk_rows <= 2**24
            and 0 < chunk_columns <= 2**12
            and shard_rows % chunk_rows == 0
            and 0 < shard_rows <= 2**28
            and shard_columns == chunk_columns
            and rows >= 0
            and columns >= 0
        )
        if codec is None or not sound:
            raise ValueError("it is not sharded as format 1 says")
        return cls(
            (rows, columns),
            (chunk_rows, chunk_columns),
            (shard_rows, shard_columns),
            codec,
            np.dtype(document["data_type"]),
            float(document["fill_value"]),
        )

    @property
    def shard_grid(self) -> tuple[int, int]:
        """Number of shards along parameters and along steps."""
        return (
            math.ceil(self.shape[0] / self.shard[0]),
            math.ceil(self.shape[1] / self.shard[1]),
        )

    @property
    def chunks_per_shard(self) -> int:
        """Inner chunks of a shard, all along the parameters."""
        return self.shard[0] // self.chunk[0]

    @property
    def max_bytes(self) -> int:
        """Size no shard file exceeds, however badly it compresses."""
        raw = self.shard[0] * self.shard[1] * self.dtype.itemsize
        return 2 * raw + 1024 * (self.chunks_per_shard + 1)

    def keys(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Yield the key of every shard with its position."""
        for i in range(self.shard_grid[0]):
            for j in range(self.shard_grid[1]):
                yield shard_key(name, i, j), i, j


def is_sharded(document: ArrayMetadata) -> bool:
    """Say whether an array's metadata is of a large, sharded array."""
    return bool(document["codecs"][0]["name"] == "sharding_indexed")


def shard_key(name: str, i: int, j: int) -> str:
    """Return the key of the shard at row i and block j."""
    return f"{name}/c/{i}/{j}"


def encode_shard(
    rows: npt.NDArray[Any],
    grid: Grid,
    i: int,
    map_chunks: EncodeMap | None = None,
    sheet: Sheet | None = None,
) -> memoryview:
    """Encode the shard at row `i` of the block that `rows` is.

    Parameters
    ----------
    rows : ndarray, shape (steps, param)
        The block as it was recorded, step by step; at most as many steps as a block has.
    grid : Grid
        Of the array.
    i : int
        Which shard along the parameters.
    map_chunks : callable, optional
        Like `map`, in order; runs the chunks on several cores.
    sheet : Sheet, optional
        To put it together in.

    Returns
    -------
    memoryview
        The file; valid until the sheet is used again.
    """
    sheet = sheet or Sheet()
    run, count = map_chunks or map, grid.chunks_per_shard

    def fill(c: int, chunk: npt.NDArray[Any]) -> None:
        """Copy the inner chunk at `c` to `chunk`, shape (steps, param)."""
        start = i * grid.shard[0] + c * grid.chunk[0]
        part = rows[:, start : start + grid.chunk[0]]
        if part.shape != chunk.shape:
            chunk.fill(grid.fill)
        chunk[: part.shape[0], : part.shape[1]] = part

    def compress(c: int) -> tuple[bytes, bytes]:
        # One chunk at a time, so that the transposed copy is still in cache when compressed.
        chunk = sheet.chunk(grid.chunk, grid.dtype)
        fill(c, chunk.T)
        data = grid.codec.compress(chunk)
        return data, checksum(data)

    if not grid.codec.by_step:
        encoded = list(run(compress, range(count)))
        whole, places = _room(sheet, [len(data) + len(check) for data, check in encoded])
        for place, (data, check) in zip(places, encoded, strict=True):
            whole[place.start : place.stop - 4] = data
            whole[place.stop - 4 : place.stop] = check
        return whole

    def lay(c: int) -> None:
        stretch = np.frombuffer(whole[places[c]], np.uint8)
        fill(c, stretch[:-4].view(grid.dtype).reshape(grid.chunk[::-1]))
        stretch[-4:] = np.frombuffer(checksum(stretch[:-4]), np.uint8)

    whole, places = _room(sheet, [math.prod(grid.chunk) * grid.dtype.itemsize + 4] * count)
    list(run(lay, range(count)))
    return whole


def _room(sheet: Sheet, lengths: list[int]) -> tuple[memoryview, list[slice]]:
    """Return room for a shard that ends in its index, and where its chunks of such lengths go."""
    ends = np.cumsum(lengths)
    index = checksummed(np.stack([ends - lengths, lengths], axis=1).astype("<u8").tobytes())
    whole = memoryview(sheet.room(int(ends[-1]) + len(index)).data)
    whole[-len(index) :] = index
    return whole, [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


class Parts(Protocol):
    """A file that is read where it is sliced."""

    def __len__(self) -> int:
        """Return its size."""
        ...

    def __getitem__(self, part: slice) -> Bytes:
        """Read a stretch of it."""
        ...


class Shard:
    """One shard, decoded an inner chunk at a time.

    Parameters
    ----------
    data : bytes or Parts
        The whole file, or what reads the parts of it that are asked for.
    grid : Grid
        Of the array.
    i, j : int
        Position of the shard.
    label : str
        File name, for messages.

    Raises
    ------
    CorruptError
        If the index is damaged.
    """

    def __init__(self, data: bytes | Parts, grid: Grid, i: int, j: int, label: str) -> None:
        self._data: Parts | memoryview = memoryview(data) if isinstance(data, bytes) else data
        self._grid = grid
        self._label = label
        first, column = i * grid.shard[0], j * grid.shard[1]
        self.rows = slice(first, min(first + grid.shard[0], grid.shape[0]))
        self.columns = slice(column, min(column + grid.shard[1], grid.shape[1]))
        self._index = self._read_index(len(data))

    @property
    def chunk_count(self) -> int:
        """Inner chunks that hold parameters."""
        return math.ceil((self.rows.stop - self.rows.start) / self._grid.chunk[0])

    @property
    def is_whole(self) -> bool:
        """Whether the whole file is in memory."""
        return isinstance(self._data, memoryview)

    def loaded(self, chunks: range) -> Shard:
        """Return the shard with the bytes of some consecutive chunks in memory."""
        if self.is_whole or not chunks:
            return self
        bounds = self._index[chunks.start : chunks.stop].astype(np.int64)
        start, stop = int(bounds[:, 0].min()), int(bounds.sum(axis=1).max())
        if stop - start > 2 * int(bounds[:, 1].sum()):
            return self  # chunks in another order, which ckptlab does not write
        other = copy.copy(self)
        other._data = _Stretch(self._data[start:stop], start, len(self._data))
        return other

    def step(self, c: int, within: int) -> Array:
        """Read one step of inner chunk `c`, of a codec that is `by_step`; nothing is checked."""
        rows, columns = self._grid.chunk
        size = rows * self._grid.dtype.itemsize
        offset, length = (int(n) for n in self._index[c])
        data = self._data[offset + within * size : offset + (within + 1) * size]
        if length != columns * size + 4 or len(data) != size:
            raise self._corrupt(f"inner chunk {c}: it has {length} bytes")
        return np.frombuffer(data, self._grid.dtype)

    def body(self, c: int) -> Bytes:
        """Return the bytes of inner chunk `c`, the checksum included."""
        offset, length = (int(n) for n in self._index[c])
        return self._data[offset : offset + length]

    def decode(self, c: int, out: Array | None = None) -> Array:
        """Decode inner chunk `c`.

        Parameters
        ----------
        c : int
            Position along the parameters of the shard.
        out : ndarray, optional
            To decode into, of the shape and dtype of a chunk.

        Returns
        -------
        ndarray, shape of a chunk
            What lies beyond the array's bounds is padding.

        Raises
        ------
        CorruptError
            If the bytes are not what was written.
        """
        chunk = np.empty(self._grid.chunk, self._grid.dtype) if out is None else out
        try:
            self._grid.codec.decode(self.body(c), chunk)
        except MemoryError:
            raise
        except Exception as error:  # the codecs' errors have no common base below Exception
            raise self._corrupt(f"inner chunk {c}: {error}") from error
        return chunk

    def check(self, c: int) -> None:
        """Check the checksum of inner chunk `c` without decoding; CorruptError if it is wrong."""
        try:
            verified(self.body(c))
        except ValueError as error:
            raise self._corrupt(f"inner chunk {c}: {error}") from error

    def check_whole(self) -> None:
        """Check every byte by its checksum, padding included; CorruptError if one is wrong.

        A file that is not in memory is read some chunks at a time.
        """
        offsets, lengths = self._index.T
        ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths, dtype=np.uint64)])
        if (offsets != ends[:-1]).any() or int(ends[-1]) != self._index_start:
            raise self._corrupt("index: the chunks do not follow each other")
        for part in self.stretches(self._grid.chunks_per_shard):
            loaded = self.loaded(part)
            for c in part:
                loaded.check(c)

    def stretches(self, count: int, chunks: int = CHUNKS_A_READ) -> Iterator[range]:
        """Yield the first `count` inner chunks, some at a time."""
        for first in range(0, count, chunks):
            yield range(first, min(first + chunks, count))

    def _read_index(self, size: int) -> npt.NDArray[np.uint64]:
        count = self._grid.chunks_per_shard
        length = count * 16 + 4
        if size < length:
            raise self._corrupt(f"{size} bytes are too few for a shard")
        try:
            body = verified(self._data[-length:])
        except ValueError as error:
            raise self._corrupt(f"index: {error}") from error
        index = np.frombuffer(body, "<u8").reshape(count, 2)
        self._index_start = size - length
        limit = np.uint64(self._index_start)
        if (index > limit).any() or (index.sum(axis=1) > limit).any():
            raise self._corrupt("index: a chunk lies outside the file")
        return index

    def _corrupt(self, what: str) -> CorruptError:
        problem = f"is damaged ({what})"
        return CorruptError(
            f"{self._label} {problem}; run ckptlab verify", file=self._label, problem=problem
        )


class _Stretch:
    """A part of a file in memory, sliced at the offsets of the whole."""

    def __init__(self, data: Bytes, start: int, size: int) -> None:
        self._data, self._start, self._size = memoryview(data), start, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self._size)
        return self._data[start - self._start : stop - self._start]
