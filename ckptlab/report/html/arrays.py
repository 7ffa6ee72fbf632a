"""The numbers of a page: every array once, as base64 of its bytes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[Any]


class Columns:
    """Collects arrays, and gives each a name to refer to it by.

    Attributes
    ----------
    arrays : dict of str to dict
        JSON: by name, `type` (``i4`` or ``f8``) and `data`.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, dict[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}

    def add(self, values: Array) -> str:
        """Add an array, unless the same is there.

        Parameters
        ----------
        values : ndarray
            Integers that fit 32 bits are kept so, everything else as float64.

        Returns
        -------
        str
            What to call it.
        """
        kind = "i4" if _is_small_integer(values) else "f8"
        data = np.ascontiguousarray(values, f"<{kind}").tobytes()
        same = (kind, xxhash.xxh3_128_hexdigest(data))
        if same not in self._names:
            name = f"a{len(self.arrays)}"
            self._names[same] = name
            self.arrays[name] = {"type": kind, "data": base64.b64encode(data).decode()}
        return self._names[same]


def _is_small_integer(values: Array) -> bool:
    if values.dtype.kind not in "iu":
        return False
    return not len(values) or bool(np.abs(values).max() < 2**31)
