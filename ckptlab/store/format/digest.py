"""Digest a snapshot: the same number whatever stored it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash


def snapshot_digest(weights: npt.NDArray[Any]) -> int:
    """Return xxh3_64 (seed 0) of the little-endian float32 bytes of one snapshot."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(weights, "<f4").data)


class SnapshotDigest:
    """The digest of a snapshot that comes in stretches."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()

    def update(self, weights: npt.NDArray[Any]) -> None:
        """Add the next stretch."""
        self._hash.update(np.ascontiguousarray(weights, "<f4").data)

    @property
    def value(self) -> int:
        """The digest of all stretches so far."""
        return self._hash.intdigest()
