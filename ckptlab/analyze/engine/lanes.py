"""The loops of the compiled kernel over a tile, whose shape `kernel` explains.

They have constant lengths and take four runs of 32 lanes at a time: that is what the compiler turns
into vector instructions with few stores. Every lane sums in float64; products of float32 are exact
there, so that only additions round. Numba compiles them into the functions of `kernel` and keeps
those: after a change here, change that file too, or delete `__pycache__`.
"""

# min() and max() would let a NaN through that the comparisons below pass over.
# ruff: noqa: FURB136

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

LANES = 32
"""Steps that are summed side by side, and the most columns of one call."""

TILE = 3840
"""Elements of a tile. Each lane counts at most TILE / LANES = 120 of them, which int8 holds."""

GROUP = 4 * LANES

COMPILE: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract"}}
"""Fused multiply-add is allowed, which rounds once less; nothing is reordered."""

Array = npt.NDArray[Any]


@numba.njit(**COMPILE)
def fill(chunk: Array, start: int, columns: int, rows: Array, pitch: int, now: Array) -> None:
    """Copy the steps of some rows into a tile."""
    for r in range(rows.size):
        now[r * pitch : r * pitch + columns] = chunk[rows[r], start : start + columns]


@numba.njit(**COMPILE)
def pick(reference: Array, rows: Array, padded: int, origins: Array, signs: Array) -> None:
    """Pick a snapshot's values of some rows, and their signs."""
    for r in range(rows.size):
        origins[r] = reference[rows[r]]
    origins[rows.size : padded] = 0
    sign(origins, padded, signs)


@numba.njit(**COMPILE)
def spread(origins: Array, pitch: int, size: int, aside: Array) -> None:
    """Repeat each row's value over its lanes."""
    table = aside[:size].reshape((size // pitch, pitch))
    for r in range(size // pitch):
        table[r, :] = origins[r]


@numba.njit(**COMPILE)
def sign(values: Array, size: int, signs: Array) -> None:
    """Write −1, 0 or 1 of each value."""
    for i in range(size):
        signs[i] = np.int8(values[i] > 0) - np.int8(values[i] < 0)


@numba.njit(**COMPILE)
def keep_last(now: Array, columns: int, pitch: int, rows: Array, carry: Array) -> None:
    """Keep the last step of each row for the call after."""
    for r in range(rows.size):
        carry[rows[r]] = now[r * pitch + columns - 1]


@numba.njit(**COMPILE)
def add_first(now: Array, pitch: int, rows: Array, carry: Array, firsts: Array) -> np.int64:
    """Compare the first step with the one before the chunk; return the flips."""
    square, product, flips = 0.0, 0.0, np.int64(0)
    for r in range(rows.size):
        x, y = np.float64(now[r * pitch]), np.float64(carry[rows[r]])
        square += (x - y) * (x - y)
        product += x * y
        flips += np.int64((x > 0) & (y < 0)) + np.int64((x < 0) & (y > 0))
    firsts[0] += square
    firsts[1] += product
    return flips


@numba.njit(**COMPILE)
def add_sums(now: Array, before: Array, size: int, totals: Array) -> None:
    """Add Σ|w|, Σw² and Σ(w−w_prev)²."""
    total = totals.reshape(totals.size)
    for start in range(0, size, GROUP):
        x = now[start : start + GROUP]
        y = before[start : start + GROUP]
        for c in range(LANES):
            p = np.float64(x[c])
            q = np.float64(x[c + LANES])
            s = np.float64(x[c + 2 * LANES])
            t = np.float64(x[c + 3 * LANES])
            total[c] += (abs(p) + abs(q)) + (abs(s) + abs(t))
            total[c + LANES] += (p * p + q * q) + (s * s + t * t)
            p -= np.float64(y[c])
            q -= np.float64(y[c + LANES])
            s -= np.float64(y[c + 2 * LANES])
            t -= np.float64(y[c + 3 * LANES])
            total[c + 2 * LANES] += (p * p + q * q) + (s * s + t * t)


@numba.njit(**COMPILE)
def add_distance(now: Array, other: Array, size: int, total: Array) -> None:
    """Add the squared distance."""
    for start in range(0, size, GROUP):
        x = now[start : start + GROUP]
        y = other[start : start + GROUP]
        for c in range(LANES):
            p = np.float64(x[c]) - np.float64(y[c])
            q = np.float64(x[c + LANES]) - np.float64(y[c + LANES])
            s = np.float64(x[c + 2 * LANES]) - np.float64(y[c + 2 * LANES])
            t = np.float64(x[c + 3 * LANES]) - np.float64(y[c + 3 * LANES])
            total[c] += (p * p + q * q) + (s * s + t * t)


@numba.njit(**COMPILE)
def add_sums_of_rows(ahead: Array, one: Array, other: Array, size: int, totals: Array) -> None:
    """Do as `add_sums`, and add the distances from two snapshots, one number a row."""
    total = totals.reshape(totals.size)
    for r in range(0, size // LANES, 4):
        x = ahead[r * LANES + 1 : r * LANES + 1 + GROUP]
        y = ahead[r * LANES : r * LANES + GROUP]
        a, b = np.float64(one[r]), np.float64(one[r + 1])
        d, e = np.float64(one[r + 2]), np.float64(one[r + 3])
        f, g = np.float64(other[r]), np.float64(other[r + 1])
        h, k = np.float64(other[r + 2]), np.float64(other[r + 3])
        for c in range(LANES):
            p = np.float64(x[c])
            q = np.float64(x[c + LANES])
            s = np.float64(x[c + 2 * LANES])
            t = np.float64(x[c + 3 * LANES])
            total[c] += (abs(p) + abs(q)) + (abs(s) + abs(t))
            total[c + LANES] += (p * p + q * q) + (s * s + t * t)
            u = p - np.float64(y[c])
            v = q - np.float64(y[c + LANES])
            w = s - np.float64(y[c + 2 * LANES])
            z = t - np.float64(y[c + 3 * LANES])
            total[c + 2 * LANES] += (u * u + v * v) + (w * w + z * z)
            u, v, w, z = p - a, q - b, s - d, t - e
            total[c + 3 * LANES] += (u * u + v * v) + (w * w + z * z)
            u, v, w, z = p - f, q - g, s - h, t - k
            total[c + 4 * LANES] += (u * u + v * v) + (w * w + z * z)


@numba.njit(**COMPILE)
def add_plain(now: Array, size: int, total: Array) -> None:
    """Add the values."""
    for start in range(0, size, LANES):
        x = now[start : start + LANES]
        for c in range(LANES):
            total[c] += np.float64(x[c])


@numba.njit(**COMPILE)
def add_product(now: Array, other: Array, size: int, total: Array) -> None:
    """Add the products."""
    for start in range(0, size, LANES):
        x = now[start : start + LANES]
        y = other[start : start + LANES]
        for c in range(LANES):
            total[c] += np.float64(x[c]) * np.float64(y[c])


@numba.njit(**COMPILE)
def add_extremes(now: Array, size: int, extreme: Array) -> None:
    """Lower the smallest and raise the largest value; NaN does neither."""
    for start in range(0, size, GROUP):
        x = now[start : start + GROUP]
        for c in range(LANES):
            p, q, s, t = x[c], x[c + LANES], x[c + 2 * LANES], x[c + 3 * LANES]
            low = p if p < extreme[c] else extreme[c]
            low = q if q < low else low
            low = s if s < low else low
            extreme[c] = t if t < low else low
            high = p if p > extreme[c + LANES] else extreme[c + LANES]
            high = q if q > high else high
            high = s if s > high else high
            extreme[c + LANES] = t if t > high else high


@numba.njit(**COMPILE)
def add_signed(signs: Array, size: int, few: Array, count: Array) -> None:
    """Count what has a sign."""
    few[:] = 0
    for start in range(0, size, GROUP):
        x = signs[start : start + GROUP]
        for c in range(LANES):
            few[c] += (
                np.int8(x[c] != 0)
                + np.int8(x[c + LANES] != 0)
                + np.int8(x[c + 2 * LANES] != 0)
                + np.int8(x[c + 3 * LANES] != 0)
            )
    for c in range(LANES):
        count[c] += few[c]


@numba.njit(**COMPILE)
def add_flips(signs: Array, others: Array, size: int, few: Array, count: Array) -> None:
    """Count opposite signs."""
    few[:] = 0
    for start in range(0, size, GROUP):
        x = signs[start : start + GROUP]
        y = others[start : start + GROUP]
        for c in range(LANES):
            # Of −1, 0 and 1 only two opposite signs give −2.
            few[c] += (
                np.int8((x[c] ^ y[c]) == -2)
                + np.int8((x[c + LANES] ^ y[c + LANES]) == -2)
                + np.int8((x[c + 2 * LANES] ^ y[c + 2 * LANES]) == -2)
                + np.int8((x[c + 3 * LANES] ^ y[c + 3 * LANES]) == -2)
            )
    for c in range(LANES):
        count[c] += few[c]


@numba.njit(**COMPILE)
def add_counts_of_rows(
    ahead: Array, one: Array, other: Array, size: int, few: Array, count: Array
) -> None:
    """Do as `add_signed` and `add_flips`, and count flips since two snapshots, a sign a row."""
    few[:] = 0
    for r in range(0, size // LANES, 4):
        x = ahead[r * LANES + 1 : r * LANES + 1 + GROUP]
        y = ahead[r * LANES : r * LANES + GROUP]
        a, b, d, e = one[r], one[r + 1], one[r + 2], one[r + 3]
        f, g, h, k = other[r], other[r + 1], other[r + 2], other[r + 3]
        for c in range(LANES):
            p, q, s, t = x[c], x[c + LANES], x[c + 2 * LANES], x[c + 3 * LANES]
            few[c] += np.int8(p != 0) + np.int8(q != 0) + np.int8(s != 0) + np.int8(t != 0)
            few[c + LANES] += (
                np.int8((p ^ y[c]) == -2)
                + np.int8((q ^ y[c + LANES]) == -2)
                + np.int8((s ^ y[c + 2 * LANES]) == -2)
                + np.int8((t ^ y[c + 3 * LANES]) == -2)
            )
            few[c + 2 * LANES] += (
                np.int8((p ^ a) == -2)
                + np.int8((q ^ b) == -2)
                + np.int8((s ^ d) == -2)
                + np.int8((t ^ e) == -2)
            )
            few[c + 3 * LANES] += (
                np.int8((p ^ f) == -2)
                + np.int8((q ^ g) == -2)
                + np.int8((s ^ h) == -2)
                + np.int8((t ^ k) == -2)
            )
    for k in range(count.shape[0]):
        for c in range(LANES):
            count[k, c] += few[k * LANES + c]


@numba.njit(**COMPILE)
def replace_first(lanes: Array, pitch: int, value: Any) -> None:
    """Put the sum of the first step in place of what its lanes hold."""
    lanes[::pitch] = 0
    lanes[0] = value


@numba.njit(**COMPILE)
def fold(lanes: Array, pitch: int, out: Array) -> None:
    """Add the lanes of each step."""
    for lane in range(LANES):
        if lane % pitch < out.shape[1]:
            for f in range(out.shape[0]):
                out[f, lane % pitch] += lanes[f, lane]


@numba.njit(**COMPILE)
def fold_extremes(lanes: Array, pitch: int, out: Array) -> None:
    """Fold the extremes of the lanes of each step."""
    for lane in range(LANES):
        c = lane % pitch
        if c < out.shape[1]:
            out[0, c] = min(out[0, c], lanes[lane])
            out[1, c] = max(out[1, c], lanes[lane + LANES])
