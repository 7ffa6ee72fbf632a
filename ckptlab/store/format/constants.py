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
import zstandard

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.checksum import checksummed, verified
from ckptlab.store.format.codecs import CODECS
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.zstd_stream import STRETCH, read_stretches

NAMES = "tensor/c/0"
INDEX = "tensor_index/c/0"
KEPT = "mask/c/0"
CONSTANTS: tuple[str, ...] = ("tensor", "tensor_index")
"""Those that can be written again from the tensor table."""


def write_constants(storage: Storage, layout: Layout) -> None:
    """Write both arrays' only chunk."""
    storage.put(NAMES, [checksummed(_names(layout))])
    storage.put(INDEX, [_index(layout)])


def check_constants(storage: Storage, layout: Layout, key: str) -> None:
    """Compare a chunk (`NAMES` or `INDEX`) with the tensor table; StoreError unless it is equal.

    The index is read in stretches: it has four bytes a parameter.
    """
    try:
        if key == NAMES:
            data = storage.get(key, limit=64 + 2 * len(_names(layout)))
            same = bytes(verified(data)) == _names(layout)
        else:
            same = _index_is_right(storage, layout)
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # the codecs' errors have no common base below Exception
        raise _damaged(storage, key, str(error)) from error
    if not same:
        raise _damaged(storage, key, "it is not what the tensor table says")


def _index_is_right(storage: Storage, layout: Layout) -> bool:
    count, start = layout.parameters, 0
    edges = np.cumsum([0, *(tensor.size for tensor in layout.tensors)])
    for found in read_stretches(storage, INDEX, "<i4", count, 64 + 5 * count):
        stop = start + len(found)
        first, last = np.searchsorted(edges, [start, stop - 1], side="right") - 1
        counts = np.diff(np.clip(edges[first : last + 2], start, stop))
        if not np.array_equal(found, np.repeat(np.arange(first, last + 1), counts)):
            return False
        start = stop
    return True


def check_mask(storage: Storage, layout: Layout, attributes: Mapping[str, Any]) -> None:
    """Compare the mask with its digest, in stretches; StoreError if it is damaged or another."""
    count = layout.parameters
    try:
        digest = xxhash.xxh3_64()
        for found in read_stretches(storage, KEPT, "u1", count, 1024 + 2 * count):
            digest.update(found.data)
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # the codecs' errors have no common base below Exception
        raise _damaged(storage, KEPT, str(error)) from error
    if digest.hexdigest() != attributes.get("mask_digest"):
        raise _damaged(storage, KEPT, "it is not the mask the run was made with")


def _damaged(storage: Storage, key: str, problem: str) -> CorruptError:
    return CorruptError(f"{storage.path}/{key}: {problem}", file=key, problem=problem)


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


def _index(layout: Layout) -> bytes:
    """Encode the index of each parameter's tensor, in stretches: it has four bytes a parameter."""
    stream = zstandard.ZstdCompressor(level=1).compressobj(size=4 * layout.parameters)
    parts = [
        stream.compress(np.full(min(left, STRETCH), index, "<i4").tobytes())
        for index, tensor in enumerate(layout.tensors)
        for left in range(tensor.size, 0, -STRETCH)
    ]
    return checksummed(b"".join((*parts, stream.flush())))
