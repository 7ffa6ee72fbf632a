"""Reading the optimizer's state at an anchor."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import Storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.shards import shard_key
from ckptlab.store.format.zarr_metadata import Document
from ckptlab.store.read.array_reader import StoredArray


def read_anchor(
    storage: Storage,
    metadata: Mapping[str, Document],
    anchors: list[int],
    step: int,
) -> Anchor | None:
    """Read the optimizer's state at an anchor.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    metadata : mapping of str to dict
        Documents of the arrays.
    anchors : list of int
        Steps of the committed anchors.
    step : int
        Which one.

    Returns
    -------
    Anchor or None
        None if the step is no anchor.

    Raises
    ------
    CorruptError
        If it is damaged.
    """
    if step not in anchors or schema.OPTIMIZER_ROW not in metadata:
        return None
    column = anchors.index(step)
    row = read_byte_row(storage, metadata[schema.OPTIMIZER_ROW], column)
    keys = present_states(row)
    if keys is None:  # another writer's row: what there is, is told by the files
        keys = _stored_states(storage, metadata, column)
    states: dict[str, npt.NDArray[np.float32]] = {}
    for key in keys:
        name = schema.OPTIMIZER + key
        if name not in metadata:
            raise CorruptError(f"{storage.path}: `{name}` is missing; run ckptlab verify")
        states[key] = StoredArray(storage.path, name, metadata[name], storage).read_column(column)
    return Anchor(step=step, states=states, row=row)


def read_byte_row(storage: Storage, document: Document, column: int) -> bytes:
    """Read the byte row of one anchor.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    document : dict
        Metadata of `optimizer_state`.
    column : int
        Position of the anchor.

    Returns
    -------
    bytes
        Without length and padding.

    Raises
    ------
    CorruptError
        If it is damaged.
    """
    stored = StoredArray(storage.path, schema.OPTIMIZER_ROW, document, storage)
    row = b""
    for i in range(stored.grid.shard_grid[0]):
        shard = stored.read_shard(i, column)
        row += b"".join(shard.decode(c).tobytes() for c in range(shard.chunk_count))
        (length,) = struct.unpack_from("<Q", row)
        # A row that was shorter than a later one has fewer shards.
        if length + 8 <= len(row):
            return row[8 : 8 + length]
    raise CorruptError(f"{storage.path}: the optimizer's row of anchor {column} is damaged")


def present_states(row: bytes) -> tuple[str, ...] | None:
    """Say which parameter-shaped states an anchor has.

    Parameters
    ----------
    row : bytes
        Its byte row.

    Returns
    -------
    tuple of str or None
        Their keys; None if the row is not as format 1 says.
    """
    try:
        (length,) = struct.unpack_from("<Q", row)
        header = json.loads(row[8 : 8 + length])
        description = json.loads(header["__metadata__"]["ckptlab"])
        return tuple(str(key) for key in description.get("present", {}))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _stored_states(
    storage: Storage, metadata: Mapping[str, Document], column: int
) -> tuple[str, ...]:
    names = [n for n in metadata if n.startswith(schema.OPTIMIZER) and n != schema.OPTIMIZER_ROW]
    found = [name for name in names if storage.size(shard_key(name, 0, column))]
    return tuple(name.removeprefix(schema.OPTIMIZER) for name in found)
