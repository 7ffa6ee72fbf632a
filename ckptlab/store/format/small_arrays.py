"""Small arrays along a step axis, kept whole chunks at a time in memory and on disk.

A partial write to a chunk would be a read, a change and
a write that a crash can tear; here every write is one whole chunk, put atomically.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import MissingObjectError, Storage
from ckptlab.store.format.codecs import Array, checksummed, verified
from ckptlab.store.format.zarr_metadata import Document


class GrowingArray:
    """Writer of one small array whose last dimension is a step axis.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    name : str
        Name of the array.
    document : dict
        Its metadata.
    length : int
        How many entries along the step axis are kept of what is stored.
    """

    def __init__(self, storage: Storage, name: str, document: Document, length: int = 0) -> None:
        self._storage = storage
        self._name = name
        self._document = document
        self._chunk_length = chunk_length(document)
        self._position = -1
        self._values = blank(document, self._chunk_length)
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
                read_chunk(self._storage, self._name, self._document, position)
                if stored
                else blank(self._document, self._chunk_length)
            )
        self._values[..., length - position * self._chunk_length :] = _fill(self._document)

    def write(self, start: int, values: Array) -> None:
        """Put `values` at ``[start, start + n)`` along the step axis, see `changed`."""
        self._storage.put_all(self.changed(start, values))

    def changed(self, start: int, values: Array) -> dict[str, list[bytes]]:
        """Take `values` at ``[start, start + n)``, and return what must be put for it.

        Parameters
        ----------
        start : int
            In the last chunk or right behind it.
        values : ndarray
            Its last dimension is the step axis.

        Returns
        -------
        dict of str to list of bytes
            Whole chunks, by key; none that stays as it was handed out before, as where nobody says
            what the loss is.
        """
        objects: dict[str, list[bytes]] = {}
        offset = 0
        while offset < values.shape[-1]:
            position, column = divmod(start + offset, self._chunk_length)
            if position != self._position:
                self._position = position
                self._values = blank(self._document, self._chunk_length)
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
        key = chunk_key(self._name, self._document, self._position)
        return {key: [checksummed(self._values.tobytes())]}

    def blank(self, length: int) -> Array:
        """Return `length` entries of the fill value."""
        return blank(self._document, length)


def chunk_length(document: Document) -> int:
    """Return how many entries along the step axis a chunk holds."""
    return int(document["chunk_grid"]["configuration"]["chunk_shape"][-1])


def little(document: Document) -> np.dtype[Any]:
    """Return the data type as stored, little-endian."""
    return np.dtype(document["data_type"]).newbyteorder("<")


def chunk_key(name: str, document: Document, position: int) -> str:
    """Return the key of the chunk at `position` along the step axis."""
    return "/".join([name, "c", *["0"] * (len(document["shape"]) - 1), str(position)])


def blank(document: Document, length: int) -> Array:
    """Return `length` entries of the fill value."""
    shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    return np.full([*shape[:-1], length], _fill(document), little(document))


def read_chunk(storage: Storage, name: str, document: Document, position: int) -> Array:
    """Read one whole chunk.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    name : str
        Name of the array.
    document : dict
        Its metadata.
    position : int
        Of the chunk along the step axis.

    Returns
    -------
    ndarray
        Of the shape of a chunk, writable.

    Raises
    ------
    CorruptError
        If the file is missing, or not what was written.
    """
    key = chunk_key(name, document, position)
    shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    try:
        size = math.prod(shape) * little(document).itemsize + 4
        body = verified(storage.get(key, limit=size))
        return np.frombuffer(body, little(document)).reshape(shape).copy()
    except MissingObjectError as error:
        raise CorruptError(f"{storage.path}/{key} is missing; run ckptlab verify") from error
    except ValueError as error:
        raise CorruptError(
            f"{storage.path}/{key} is damaged ({error}); run ckptlab verify"
        ) from error


def read_all(storage: Storage, name: str, document: Document, length: int) -> Array:
    """Read the first `length` entries along the step axis.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    name : str
        Name of the array.
    document : dict
        Its metadata.
    length : int
        How many entries.

    Returns
    -------
    ndarray
        Its last dimension is the step axis.

    Raises
    ------
    CorruptError
        If a file is missing, or not what was written.
    """
    chunks = math.ceil(length / chunk_length(document))
    if not chunks:
        shape = document["chunk_grid"]["configuration"]["chunk_shape"]
        return np.empty([*shape[:-1], 0], little(document))
    parts = [read_chunk(storage, name, document, position) for position in range(chunks)]
    return np.concatenate(parts, axis=-1)[..., :length]


def _fill(document: Document) -> Any:
    fill = document["fill_value"]
    return np.nan if fill == "NaN" else fill
