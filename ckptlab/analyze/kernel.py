"""The compiled kernel: every sum of the cheap metrics, from one visit to each decoded chunk.

Imports nothing of ckptlab; numba compiles it on first use and caches the result beside this file.

Rows are taken a tile at a time, with scratch arrays that stay in the first-level cache: the
weights now, the weights one step before, their signs. A row there is as long as the next power
of two, so that a tile is a sequence of runs of 32 lanes, and a lane always the same step. The
loops below have constant lengths and take four runs at a time: that is what the compiler turns
into vector instructions with few stores. Every lane sums in float64; products of float32 are
exact there, so that only additions round.
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

SUMS = 3
"""Sums without a reference."""

PRODUCTS = 2
"""Signed sums without a reference."""

COUNTS = 2
"""Counts without a reference."""

COMPILE: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract"}}
"""Fused multiply-add is allowed, which rounds once less; nothing is reordered."""

Array = npt.NDArray[Any]


@numba.njit(**COMPILE)
def _fill(chunk: Array, start: int, columns: int, rows: Array, pitch: int, now: Array) -> None:
    for r in range(rows.size):
        now[r * pitch : r * pitch + columns] = chunk[rows[r], start : start + columns]


@numba.njit(**COMPILE)
def _shift(now: Array, real: int, pitch: int, rows: Array, carry: Array, before: Array) -> None:
    later = before[1:]
    for i in range(real - 1):
        later[i] = now[i]
    for r in range(rows.size):
        before[r * pitch] = carry[rows[r]]


@numba.njit(**COMPILE)
def _pick(reference: Array, rows: Array, padded: int, origins: Array, signs: Array) -> None:
    for r in range(rows.size):
        origins[r] = reference[rows[r]]
    origins[rows.size : padded] = 0
    _sign(origins, padded, signs)


@numba.njit(**COMPILE)
def _spread(origins: Array, pitch: int, size: int, aside: Array) -> None:
    table = aside[:size].reshape((size // pitch, pitch))
    for r in range(size // pitch):
        table[r, :] = origins[r]


@numba.njit(**COMPILE)
def _sign(values: Array, size: int, signs: Array) -> None:
    for i in range(size):
        signs[i] = np.int8(values[i] > 0) - np.int8(values[i] < 0)


@numba.njit(**COMPILE)
def _keep_last(now: Array, columns: int, pitch: int, rows: Array, carry: Array) -> None:
    for r in range(rows.size):
        carry[rows[r]] = now[r * pitch + columns - 1]


@numba.njit(**COMPILE)
def _shift_signs(signs: Array, before: Array, pitch: int, rows: int, others: Array) -> None:
    later = others[1:]
    for i in range(later.size):
        later[i] = signs[i]
    for r in range(rows):
        value = before[r * pitch]
        others[r * pitch] = np.int8(value > 0) - np.int8(value < 0)


@numba.njit(**COMPILE)
def _add_sums(now: Array, before: Array, size: int, totals: Array) -> None:
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
def _add_distance(now: Array, other: Array, size: int, total: Array) -> None:
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
def _add_distance_to_rows(now: Array, origins: Array, size: int, total: Array) -> None:
    # As `_add_distance`, where a run of lanes is one row: its origin need not be spread.
    for r in range(0, size // LANES, 4):
        x = now[r * LANES : r * LANES + GROUP]
        a = np.float64(origins[r])
        b = np.float64(origins[r + 1])
        d = np.float64(origins[r + 2])
        e = np.float64(origins[r + 3])
        for c in range(LANES):
            p = np.float64(x[c]) - a
            q = np.float64(x[c + LANES]) - b
            s = np.float64(x[c + 2 * LANES]) - d
            t = np.float64(x[c + 3 * LANES]) - e
            total[c] += (p * p + q * q) + (s * s + t * t)


@numba.njit(**COMPILE)
def _add_plain(now: Array, size: int, total: Array) -> None:
    for start in range(0, size, LANES):
        x = now[start : start + LANES]
        for c in range(LANES):
            total[c] += np.float64(x[c])


@numba.njit(**COMPILE)
def _add_product(now: Array, other: Array, size: int, total: Array) -> None:
    for start in range(0, size, LANES):
        x = now[start : start + LANES]
        y = other[start : start + LANES]
        for c in range(LANES):
            total[c] += np.float64(x[c]) * np.float64(y[c])


@numba.njit(**COMPILE)
def _add_extremes(now: Array, size: int, extreme: Array) -> None:
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
def _add_signed(signs: Array, size: int, few: Array, count: Array) -> None:
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
def _add_flips(signs: Array, others: Array, size: int, few: Array, count: Array) -> None:
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
def _add_flips_of_rows(signs: Array, origins: Array, size: int, few: Array, count: Array) -> None:
    few[:] = 0
    for r in range(0, size // LANES, 4):
        x = signs[r * LANES : r * LANES + GROUP]
        a, b, d, e = origins[r], origins[r + 1], origins[r + 2], origins[r + 3]
        for c in range(LANES):
            few[c] += (
                np.int8((x[c] ^ a) == -2)
                + np.int8((x[c + LANES] ^ b) == -2)
                + np.int8((x[c + 2 * LANES] ^ d) == -2)
                + np.int8((x[c + 3 * LANES] ^ e) == -2)
            )
    for c in range(LANES):
        count[c] += few[c]


@numba.njit(**COMPILE)
def _fold(lanes: Array, pitch: int, out: Array) -> None:
    for lane in range(LANES):
        if lane % pitch < out.shape[1]:
            for f in range(out.shape[0]):
                out[f, lane % pitch] += lanes[f, lane]


@numba.njit(**COMPILE)
def _fold_extremes(lanes: Array, pitch: int, out: Array) -> None:
    for lane in range(LANES):
        c = lane % pitch
        if c < out.shape[1]:
            out[0, c] = min(out[0, c], lanes[lane])
            out[1, c] = max(out[1, c], lanes[lane + LANES])


# One signature, whatever the layout and writability of what is handed in: one compilation.
SIGNATURE = numba.types.void(
    numba.float32[:, ::1],
    numba.int64,
    numba.int64,
    numba.int32[::1],
    numba.int64[:, ::1],
    numba.types.Array(numba.float32, 2, "C", readonly=True),
    numba.float32[::1],
    numba.float64[:, :, :],
    numba.float64[:, :, :],
    numba.int64[:, :, :],
    numba.float32[:, :, :],
)


@numba.njit(SIGNATURE, **COMPILE)
def accumulate(
    chunk: Array,
    start: int,
    columns: int,
    order: Array,
    segments: Array,
    references: Array,
    carry: Array,
    sums: Array,
    products: Array,
    counts: Array,
    extremes: Array,
) -> None:
    """Add at most 32 steps of a decoded chunk to the sums of its groups.

    Parameters
    ----------
    chunk : ndarray of float32, shape (rows, steps), C order
        As decoded; rows and steps beyond what is asked for are ignored.
    start, columns : int
        The first of its steps to take, and how many.
    order : ndarray of int32, shape (selected,)
        Selected rows, those of a group together.
    segments : ndarray of int64, shape (segments, 3)
        Group, and the stretch of `order` that belongs to it.
    references : ndarray of float32, shape (references, rows)
        Snapshots to compare with.
    carry : ndarray of float32, shape (rows,)
        The weights one step before `start`; those of selected rows become the last of the steps.
    sums : ndarray of float64, shape (SUMS + references, groups, columns)
        Σ|w|, Σw², Σ(w−w_prev)², and Σ(w−r)² for each reference.
    products : ndarray of float64, shape (PRODUCTS + references or 0, groups, columns)
        Σw, Σw·w_prev, and Σw·r for each reference; left out where there is no room for them.
    counts : ndarray of int64, shape (COUNTS + references, groups, columns)
        Weights with a sign, sign flips since the previous step, and since each reference.
    extremes : ndarray of float32, shape (2, groups, columns)
        Smallest and largest value.
    """
    pitch = 1
    while pitch < columns:
        pitch *= 2
    flat = chunk.reshape(chunk.size)
    scratch = np.zeros(TILE, np.float32)
    before = np.zeros(TILE, np.float32)
    aside = np.zeros(TILE, np.float32)
    origins = np.zeros(TILE, np.float32)
    origin_signs = np.zeros(TILE, np.int8)
    signs = np.zeros(TILE, np.int8)
    others = np.zeros(TILE, np.int8)
    total = np.empty((sums.shape[0], LANES), np.float64)
    product = np.empty((products.shape[0], LANES), np.float64)
    count = np.empty((counts.shape[0], LANES), np.int64)
    extreme = np.empty(2 * LANES, np.float32)
    few = np.empty(LANES, np.int8)
    for s in range(segments.shape[0]):
        group, low, high = segments[s]
        total[:] = 0
        product[:] = 0
        count[:] = 0
        extreme[:LANES] = np.inf
        extreme[LANES:] = -np.inf
        for first in range(low, high, TILE // pitch):
            rows = order[first : min(first + TILE // pitch, high)]
            real = rows.size * pitch
            size = -(-real // GROUP) * GROUP
            now = scratch
            if real == TILE and chunk.shape[1] == pitch and rows[-1] - rows[0] == rows.size - 1:
                # Rows of a group are in increasing order, so these are neighbours: no copy.
                now = flat[rows[0] * pitch : rows[0] * pitch + TILE]
            else:
                _fill(chunk, start, columns, rows, pitch, scratch)
            _shift(now, real, pitch, rows, carry, before)
            _keep_last(now, columns, pitch, rows, carry)
            # Beyond the last row: no extreme, nothing to sum.
            scratch[real:size] = np.nan
            _add_extremes(now, size, extreme)
            scratch[real:size] = 0
            before[real:size] = 0
            _add_sums(now, before, size, total)
            _sign(now, size, signs)
            _shift_signs(signs, before, pitch, rows.size, others)
            _add_signed(signs, size, few, count[0])
            _add_flips(signs, others, size, few, count[1])
            if product.shape[0]:
                _add_plain(now, size, product[0])
                _add_product(now, before, size, product[1])
            for k in range(references.shape[0]):
                _pick(references[k], rows, size // pitch, origins, origin_signs)
                if pitch == LANES and not product.shape[0]:
                    _add_distance_to_rows(now, origins, size, total[SUMS + k])
                    _add_flips_of_rows(signs, origin_signs, size, few, count[COUNTS + k])
                    continue
                _spread(origins, pitch, size, aside)
                _add_distance(now, aside, size, total[SUMS + k])
                _sign(aside, size, others)
                _add_flips(signs, others, size, few, count[COUNTS + k])
                if product.shape[0]:
                    _add_product(now, aside, size, product[PRODUCTS + k])
        _fold(total, pitch, sums[:, group])
        _fold(product, pitch, products[:, group])
        _fold(count, pitch, counts[:, group])
        _fold_extremes(extreme, pitch, extremes[:, group])
