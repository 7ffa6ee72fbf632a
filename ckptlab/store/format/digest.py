"""Digest a snapshot: the same number whatever stored it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash


def snapshot_digest(weights: npt.NDArray[Any]) -> int:
    """Return xxh3_64 (seed 0) of the little-endian float32 bytes of one snapshot."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(weights, "<f4").data)
