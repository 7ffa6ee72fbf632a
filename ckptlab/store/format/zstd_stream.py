"""Read an array of one zstd chunk in stretches, whatever its length."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zstandard

from ckptlab.store.backends.base import MissingObjectError, Storage, oversized

STRETCH = 2**22
"""Bytes that are decoded at a time."""

_MAX_WINDOW = 2**27


def read_stretches(
    storage: Storage, key: str, dtype: str, count: int, limit: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield `count` elements in order; ValueError if the chunk is damaged or of another length."""
    size = storage.size(key)
    if size is None:
        raise MissingObjectError(f"{storage.path}/{key} is missing", problem="is missing")
    if size > limit:
        raise oversized(f"{storage.path}/{key}", size, limit)
    _require_checksum(storage, key, size)
    left = count * np.dtype(dtype).itemsize
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            io.BufferedReader(_File(storage, key, size - 4))
        )
        while left:
            data = reader.read(min(STRETCH, left))
            if not data:
                raise ValueError("a chunk has another length than its metadata says")
            left -= len(data)
            yield np.frombuffer(data, dtype)
        if reader.read(1):
            raise ValueError("a chunk has another length than its metadata says")
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _require_checksum(storage: Storage, key: str, size: int) -> None:
    if size < 4:
        raise ValueError("the checksum is missing")
    found = 0
    for start in range(0, size - 4, STRETCH):
        part = storage.get_part(key, start, min(start + STRETCH, size - 4))
        found = google_crc32c.extend(found, part)
    if storage.get_part(key, size - 4, size) != struct.pack("<I", found):
        raise ValueError("the checksum is wrong")


class _File(io.RawIOBase):
    """The first bytes of an object, as a file."""

    def __init__(self, storage: Storage, key: str, size: int) -> None:
        self._storage, self._key, self._size, self._at = storage, key, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        data = self._storage.get_part(self._key, self._at, stop) if stop > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
