"""The two arrays that are written once: tensor names, and the tensor of each parameter.

Imports codecs, layout and storage. Both follow from the tensor table; they are there for readers
that know Zarr alone.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError
from ckptlab.store.codecs import CODECS, checksummed, verified
from ckptlab.store.layout import Layout
from ckptlab.store.storage import Storage

NAMES = "tensor/c/0"
INDEX = "tensor_index/c/0"
CONSTANTS: tuple[str, ...] = ("tensor", "tensor_index")


def write_constants(storage: Storage, layout: Layout) -> None:
    """Write both arrays' only chunk."""
    storage.put(NAMES, [checksummed(_names(layout))])
    storage.put(INDEX, [CODECS["zstd"].encode(_index(layout))])


def check_constants(storage: Storage, layout: Layout, key: str) -> None:
    """Compare one of the chunks with the tensor table.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    layout : Layout
        The tensor table.
    key : str
        `NAMES` or `INDEX`.

    Raises
    ------
    StoreError
        If the chunk is missing, damaged or another.
    """
    data = storage.get(key, limit=64 + 5 * layout.parameters + 2 * len(_names(layout)))
    try:
        if key == NAMES:
            same = bytes(verified(data)) == _names(layout)
        else:
            found = np.empty(layout.parameters, "<i4")
            CODECS["zstd"].decode(data, found)
            same = bool(np.array_equal(found, _index(layout)))
    except MemoryError:
        raise
    except Exception as error:  # the codecs' errors have no common base below Exception
        raise CorruptError(str(error)) from error
    if not same:
        raise CorruptError("it is not what the tensor table says")


def _names(layout: Layout) -> bytes:
    names = [name.encode() for name in layout.names]
    parts = [struct.pack("<I", len(name)) + name for name in names]
    return struct.pack("<I", len(names)) + b"".join(parts)


def _index(layout: Layout) -> npt.NDArray[np.int32]:
    return layout.tensor_index().astype("<i4")
