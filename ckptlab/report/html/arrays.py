"""Embed the numbers of a page: each array once, as base64 of its bytes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[Any]


class EmbeddedArrays:
    """The arrays of a page by name; equal arrays share one name.

    `arrays` is JSON: by name, `type` (``i4`` or ``f8``) and `data`.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, dict[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}

    def add(self, values: Array) -> str:
        """Embed an array, 32-bit integers as such and all else as float64; return its name."""
        kind = "i4" if _fits_int32(values) else "f8"
        data = np.ascontiguousarray(values, f"<{kind}").tobytes()
        same = (kind, xxhash.xxh3_128_hexdigest(data))
        if same not in self._names:
            name = f"a{len(self.arrays)}"
            self._names[same] = name
            self.arrays[name] = {"type": kind, "data": base64.b64encode(data).decode()}
        return self._names[same]


def _fits_int32(values: Array) -> bool:
    if values.dtype.kind not in "iu":
        return False
    return not len(values) or bool(np.abs(values).max() < 2**31)
