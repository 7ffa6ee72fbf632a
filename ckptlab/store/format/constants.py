"""The arrays that are written once: tensor names, the tensor of each parameter, and a mask.

The first two follow from the tensor table; they are there for
readers that know Zarr alone. A mask stands nowhere else; the root metadata holds its digest.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.codecs import CODECS, checksummed, verified
from ckptlab.store.format.layout import Layout

NAMES = "tensor/c/0"
INDEX = "tensor_index/c/0"
KEPT = "mask/c/0"
CONSTANTS: tuple[str, ...] = ("tensor", "tensor_index")
"""Those that can be written again from the tensor table."""


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


def write_mask(storage: Storage, mask: npt.NDArray[np.bool_]) -> None:
    """Write the mask's only chunk."""
    storage.put(KEPT, [CODECS["zstd"].encode(mask)])


def read_mask(
    storage: Storage, layout: Layout, attributes: Mapping[str, Any]
) -> npt.NDArray[np.bool_]:
    """Read the mask of a run that has one.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    layout : Layout
        The tensor table.
    attributes : mapping
        Root attributes, with the digest of the mask.

    Returns
    -------
    ndarray of bool, shape (param,)
        True keeps.

    Raises
    ------
    StoreError
        If it is missing, damaged or another than the digest says.
    """
    try:
        data = storage.get(KEPT, limit=1024 + 2 * layout.parameters)
        # As bytes: a bool of another byte than 0 and 1 is none.
        found = np.empty(layout.parameters, np.uint8)
        CODECS["zstd"].decode(data, found)
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # the codecs' errors have no common base below Exception
        raise CorruptError(f"{storage.path}/{KEPT}: {error}") from error
    mask = found.view(np.bool_)
    if mask_digest(mask) != attributes.get("mask_digest"):
        raise CorruptError(f"{storage.path}/{KEPT} is not the mask the run was made with")
    return mask


def mask_digest(mask: npt.NDArray[np.bool_]) -> str:
    """Return xxh3_64 (seed 0, 16 hex digits) of a mask, a byte a weight."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(mask, np.bool_).data)


def _names(layout: Layout) -> bytes:
    names = [name.encode() for name in layout.names]
    parts = [struct.pack("<I", len(name)) + name for name in names]
    return struct.pack("<I", len(names)) + b"".join(parts)


def _index(layout: Layout) -> npt.NDArray[np.int32]:
    return layout.tensor_index().astype("<i4")
