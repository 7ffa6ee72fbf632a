"""What one snapshot is against the one before it: the border between two pieces of a path.

A module of its own, since numba's cache goes by the file alone.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SIGNATURE = numba.types.void(
    numba.types.Array(numba.float32, 1, "C", readonly=True),
    numba.types.Array(numba.float32, 1, "C", readonly=True),
    numba.int32[::1],
    numba.int64[:, ::1],
    numba.float64[::1],
    numba.float64[::1],
    numba.int64[::1],
)


@numba.njit(SIGNATURE, nogil=True, cache=True, fastmath={"contract"})
def compare(
    before: Array,
    now: Array,
    order: Array,
    segments: Array,
    distance: Array,
    product: Array,
    flips: Array,
) -> None:
    """Add to the sums of groups what one snapshot is against another.

    Parameters
    ----------
    before, now : ndarray of float32, shape (rows,)
        The two.
    order, segments : ndarray
        As `accumulate` takes them.
    distance, product : ndarray of float64, shape (groups,)
        Σ(w−w_prev)² and Σw·w_prev.
    flips : ndarray of int64, shape (groups,)
        Weights with opposite signs.
    """
    for s in range(segments.shape[0]):
        group, low, high = segments[s]
        square, mixed, opposite = 0.0, 0.0, np.int64(0)
        for i in range(low, high):
            x = np.float64(now[order[i]])
            y = np.float64(before[order[i]])
            square += (x - y) * (x - y)
            mixed += x * y
            opposite += np.int64((x > 0) & (y < 0)) + np.int64((x < 0) & (y > 0))
        distance[group] += square
        product[group] += mixed
        flips[group] += opposite
