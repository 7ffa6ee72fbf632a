"""Append and check the crc32c that follows whatever is stored."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy.typing as npt

Bytes = bytes | bytearray | memoryview


def checksum(data: bytes | npt.NDArray[Any]) -> bytes:
    """Return the little-endian crc32c of bytes or of a C-contiguous array."""
    return struct.pack("<I", google_crc32c.value(data))


def checksummed(data: bytes) -> bytes:
    """Append the checksum, as Zarr's crc32c codec does."""
    return data + checksum(data)


def verified(data: Bytes) -> bytes:
    """Return the data without its checksum; ValueError if that is wrong."""
    view = memoryview(data)
    if len(view) < 4:
        raise ValueError("the checksum is missing")
    # The one copy: neither the checksum nor the decoders take a view.
    body = bytes(view[:-4])
    if struct.unpack("<I", view[-4:])[0] != google_crc32c.value(body):
        raise ValueError("the checksum is wrong")
    return body
