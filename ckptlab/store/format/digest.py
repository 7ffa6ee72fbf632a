"""Digest a snapshot by segments, the parameters of a shard: the same numbers whatever stored it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash


def segment_digest(weights: npt.NDArray[Any]) -> int:
    """Return xxh3_64 (seed 0) of the little-endian float32 bytes of one segment of a snapshot."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(weights, "<f4").data)


def snapshot_digests(weights: npt.NDArray[Any], size: int) -> npt.NDArray[np.uint64]:
    """Return the digest of each segment of `size` parameters of one snapshot."""
    starts = range(0, len(weights), size)
    return np.array([segment_digest(weights[a : a + size]) for a in starts], np.uint64)
