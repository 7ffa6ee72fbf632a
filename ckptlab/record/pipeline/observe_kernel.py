"""Sum over live weights in one pass: what the one pass over stored weights sums, a step at a time.

Weights are taken a run of lanes at a time, in loops of constant length, which the compiler turns
into vector instructions. Every lane sums in float64; products of float32 are exact there.
"""

# min() and max() would let a NaN through that the comparisons below pass over.
# ruff: noqa: FURB136

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

LANES = 32

Array = npt.NDArray[Any]

COMPILE: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract"}}
"""Fused multiply-add is allowed, which rounds once less; nothing is reordered."""


@numba.njit(**COMPILE)
def _add_sums(now: Array, before: Array, first: Array, total: Array) -> None:
    for c in range(LANES):
        x, y, z = np.float64(now[c]), np.float64(before[c]), np.float64(first[c])
        total[0, c] += abs(x)
        total[1, c] += x * x
        total[2, c] += (x - y) * (x - y)
        total[3, c] += (x - z) * (x - z)
        total[4, c] += x
        total[5, c] += x * y
        total[6, c] += x * z


@numba.njit(**COMPILE)
def _add_counts(now: Array, before: Array, first: Array, count: Array, extreme: Array) -> None:
    for c in range(LANES):
        x, y, z = now[c], before[c], first[c]
        count[0, c] += np.int32((x > 0) | (x < 0))
        count[1, c] += np.int32(((x > 0) & (y < 0)) | ((x < 0) & (y > 0)))
        count[2, c] += np.int32(((x > 0) & (z < 0)) | ((x < 0) & (z > 0)))
        count[3, c] += np.int32(x != x)  # a NaN
        extreme[0, c] = x if x < extreme[0, c] else extreme[0, c]
        extreme[1, c] = x if x > extreme[1, c] else extreme[1, c]


@numba.njit(
    numba.types.void(
        numba.float32[::1],
        numba.float32[::1],
        numba.float32[::1],
        numba.int64[::1],
        numba.float64[:, ::1],
        numba.int32[:, ::1],
        numba.float32[:, ::1],
    ),
    **COMPILE,
)
def observe(
    now: Array,
    before: Array,
    first: Array,
    offsets: Array,
    sums: Array,
    counts: Array,
    extremes: Array,
) -> None:
    """Write the sums of every tensor of a snapshot, against two others.

    Parameters
    ----------
    now, before, first : ndarray of float32, shape (param,)
        The snapshot, the one observed before it, and the initial one.
    offsets : ndarray of int64, shape (tensors + 1,)
        Where each tensor starts, and the end.
    sums : ndarray of float64, shape (7, tensors)
        Σ|w|, Σw², Σ(w−w_prev)², Σ(w−w₀)², Σw, Σw·w_prev, Σw·w₀.
    counts : ndarray of int32, shape (4, tensors)
        Weights with a sign, sign flips since the previous one and the initial one, and NaN.
    extremes : ndarray of float32, shape (2, tensors)
        Smallest and largest value; infinite where there is none.
    """
    total = np.empty((7, LANES), np.float64)
    count = np.empty((4, LANES), np.int32)
    extreme = np.empty((2, LANES), np.float32)
    tail = np.empty((3, LANES), np.float32)
    for t in range(offsets.size - 1):
        low, high = offsets[t], offsets[t + 1]
        total[:] = 0
        count[:] = 0
        extreme[0] = np.inf
        extreme[1] = -np.inf
        whole = low + (high - low) // LANES * LANES
        for i in range(low, whole, LANES):
            x, y, z = now[i : i + LANES], before[i : i + LANES], first[i : i + LANES]
            _add_sums(x, y, z, total)
            _add_counts(x, y, z, count, extreme)
        if whole < high:
            n = high - whole
            tail[:] = 0
            tail[0, :n] = now[whole:high]
            tail[1, :n] = before[whole:high]
            tail[2, :n] = first[whole:high]
            _add_sums(tail[0], tail[1], tail[2], total)
            # Zeros beyond the end add nothing to sums, but would be an extreme: repeat a weight,
            # which against zero flips no sign.
            tail[0, n:] = now[whole]
            _add_counts(tail[0], tail[1], tail[2], count, extreme)
            padding = np.int32(LANES - n)
            value = now[whole]
            count[0, 0] -= padding * np.int32((value > 0) | (value < 0))
            count[3, 0] -= padding * np.int32(value != value)
        for k in range(7):
            sums[k, t] = total[k].sum()
        for k in range(4):
            counts[k, t] = count[k].sum()
        extremes[0, t] = extreme[0].min()
        extremes[1, t] = extreme[1].max()
