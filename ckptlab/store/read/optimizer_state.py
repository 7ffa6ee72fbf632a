"""Read the optimizer's state at an anchor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import Storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.shards import shard_key
from ckptlab.store.format.zarr_metadata import ArrayMetadata
from ckptlab.store.read.array_reader import StoredArray

ReadColumn = Callable[[StoredArray, int], npt.NDArray[np.float32]]

MAX_HEADER_BYTES = 10**8
"""What safetensors allows."""


def read_anchor(
    storage: Storage,
    metadata: Mapping[str, ArrayMetadata],
    anchors: list[int],
    step: int,
    read: ReadColumn = StoredArray.read_column,
) -> Anchor | None:
    """Read the optimizer's state at an anchor; None if the step is not one.

    `read` returns what is wanted of a column of an array.
    """
    if step not in anchors or schema.OPTIMIZER_ROW not in metadata:
        return None
    column = anchors.index(step)
    row = read_byte_row(storage, metadata[schema.OPTIMIZER_ROW], column)
    keys = present_states(row)
    if keys is None:  # another writer's row; the files tell which states exist
        keys = _stored_states(storage, metadata, column)
    states: dict[str, npt.NDArray[np.float32]] = {}
    for key in keys:
        name = schema.OPTIMIZER + key
        if name not in metadata:
            raise CorruptError(f"{storage.path}: `{name}` is missing; run ckptlab verify")
        states[key] = read(StoredArray(storage.path, name, metadata[name], storage), column)
    return Anchor(step=step, states=states, row=row)


def read_byte_row(storage: Storage, document: ArrayMetadata, column: int) -> bytes:
    """Read the byte row of one anchor, without length and padding; CorruptError if damaged."""
    row = _row_start(storage, document, column, lambda row: struct.unpack_from("<Q", row)[0])
    return row[8 : 8 + int(struct.unpack_from("<Q", row)[0])]


def read_row_header(storage: Storage, document: ArrayMetadata, column: int) -> bytes:
    """Read as much of an anchor's byte row as `present_states` needs; CorruptError if damaged."""

    def needed(row: bytearray) -> int:
        length, header = struct.unpack_from("<QQ", row)
        return int(min(length, header + 8, MAX_HEADER_BYTES))

    row = _row_start(storage, document, column, needed)
    # Behind a short row lies padding.
    return row[8 : 8 + int(struct.unpack_from("<Q", row)[0])]


def _row_start(
    storage: Storage, document: ArrayMetadata, column: int, needed: Callable[[bytearray], int]
) -> bytes:
    """Read a byte row from its start until it holds as many bytes as its start says it needs."""
    stored = StoredArray(storage.path, schema.OPTIMIZER_ROW, document, storage)
    row = bytearray()
    for i in range(stored.grid.shard_grid[0]):
        shard = stored.fitting_shard(i, column)
        for c in range(shard.chunk_count):
            row += shard.decode(c).tobytes()
            # A row that was shorter than a later one has fewer shards.
            if needed(row) + 8 <= len(row):
                return bytes(row)
    raise CorruptError(
        f"{storage.path}: the optimizer's row of anchor {column} is damaged",
        problem="is shorter than it says",
    )


def present_states(row: bytes) -> tuple[str, ...] | None:
    """List the parameter-shaped states that a byte row names; None if it is not of format 1."""
    try:
        (length,) = struct.unpack_from("<Q", row)
        header = json.loads(row[8 : 8 + length])
        description = json.loads(header["__metadata__"]["ckptlab"])
        return tuple(str(key) for key in description.get("present", {}))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _stored_states(
    storage: Storage, metadata: Mapping[str, ArrayMetadata], column: int
) -> tuple[str, ...]:
    names = [n for n in metadata if n.startswith(schema.OPTIMIZER) and n != schema.OPTIMIZER_ROW]
    found = [name for name in names if storage.size(shard_key(name, 0, column))]
    return tuple(name.removeprefix(schema.OPTIMIZER) for name in found)
