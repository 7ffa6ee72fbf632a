"""Write and read small arrays along a step axis, whole chunks at a time.

A partial write to a chunk would be a read, a change and a write, which a crash can tear; here every
write is one whole chunk, put atomically.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import MissingObjectError, Storage
from ckptlab.store.format.checksum import checksummed, verified
from ckptlab.store.format.codecs import Array
from ckptlab.store.format.zarr_metadata import ArrayMetadata


class GrowingArray:
    """Writes one small array whose last dimension is a step axis, from `length` entries on."""

    def __init__(
        self, storage: Storage, name: str, metadata: ArrayMetadata, length: int = 0
    ) -> None:
        self._storage = storage
        self._name = name
        self._metadata = metadata
        self._chunk_length = chunk_length(metadata)
        self._position = -1
        self._values = blank(metadata, self._chunk_length)
        self._handed_out = False
        self.truncate(length)

    def truncate(self, length: int) -> None:
        """Forget the entries from `length` on; the file is changed by the next write."""
        self._handed_out = False
        position = max(length - 1, 0) // self._chunk_length
        if position != self._position:
            self._position = position
            stored = length > position * self._chunk_length
            self._values = (
                read_chunk(self._storage, self._name, self._metadata, position)
                if stored
                else blank(self._metadata, self._chunk_length)
            )
        self._values[..., length - position * self._chunk_length :] = _fill(self._metadata)

    def write(self, start: int, values: Array) -> None:
        """Write `values` at ``[start, start + n)`` along the step axis."""
        self._storage.put_all(self.changed(start, values))

    def changed(self, start: int, values: Array) -> dict[str, list[bytes]]:
        """Take `values` at ``[start, start + n)`` along the step axis; return the chunks to write.

        `start` lies in the last chunk or right behind it. Chunks that stay as they were handed out
        are left out.
        """
        objects: dict[str, list[bytes]] = {}
        offset = 0
        while offset < values.shape[-1]:
            position, column = divmod(start + offset, self._chunk_length)
            if position != self._position:
                self._position = position
                self._values = blank(self._metadata, self._chunk_length)
                self._handed_out = False
            count = min(values.shape[-1] - offset, self._chunk_length - column)
            place = self._values[..., column : column + count]
            before = place.tobytes()
            place[...] = values[..., offset : offset + count]
            if not self._handed_out or place.tobytes() != before:
                objects |= self.chunk()
                self._handed_out = True
            offset += count
        return objects

    def chunk(self) -> dict[str, list[bytes]]:
        """Return the chunk in memory, by its key."""
        key = chunk_key(self._name, self._metadata, self._position)
        return {key: [checksummed(self._values.tobytes())]}

    def blank(self, length: int) -> Array:
        """Return `length` entries of the fill value."""
        return blank(self._metadata, length)


def chunk_length(metadata: ArrayMetadata) -> int:
    """Return how many entries along the step axis a chunk holds."""
    return int(metadata["chunk_grid"]["configuration"]["chunk_shape"][-1])


def little(metadata: ArrayMetadata) -> np.dtype[Any]:
    """Return the data type as stored, little-endian."""
    return np.dtype(metadata["data_type"]).newbyteorder("<")


def chunk_key(name: str, metadata: ArrayMetadata, position: int) -> str:
    """Return the key of the chunk at `position` along the step axis."""
    return "/".join([name, "c", *["0"] * (len(metadata["shape"]) - 1), str(position)])


def blank(metadata: ArrayMetadata, length: int) -> Array:
    """Return `length` entries of the fill value."""
    shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return np.full([*shape[:-1], length], _fill(metadata), little(metadata))


def read_chunk(storage: Storage, name: str, metadata: ArrayMetadata, position: int) -> Array:
    """Read one whole chunk, writable; CorruptError if it is missing or not what was written."""
    key = chunk_key(name, metadata, position)
    shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    try:
        size = math.prod(shape) * little(metadata).itemsize + 4
        body = verified(storage.get(key, limit=size))
        return np.frombuffer(body, little(metadata)).reshape(shape).copy()
    except MissingObjectError as error:
        raise _unreadable(storage, key, "is missing") from error
    except ValueError as error:
        raise _unreadable(storage, key, f"is damaged ({error})") from error


def read_all(storage: Storage, name: str, metadata: ArrayMetadata, length: int) -> Array:
    """Read the first `length` entries along the step axis, the last dimension.

    CorruptError if a file is missing or not what was written.
    """
    chunks = math.ceil(length / chunk_length(metadata))
    if not chunks:
        shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        return np.empty([*shape[:-1], 0], little(metadata))
    parts = [read_chunk(storage, name, metadata, position) for position in range(chunks)]
    return np.concatenate(parts, axis=-1)[..., :length]


def _unreadable(storage: Storage, key: str, problem: str) -> CorruptError:
    label = f"{storage.path}/{key}"
    return CorruptError(f"{label} {problem}; run ckptlab verify", file=label, problem=problem)


def _fill(metadata: ArrayMetadata) -> Any:
    fill = metadata["fill_value"]
    return np.nan if fill == "NaN" else fill
