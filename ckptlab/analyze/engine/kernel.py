"""The compiled kernel: every sum of the cheap metrics, from one visit to each decoded chunk.

Rows are taken a tile at a time, with scratch arrays that stay in the first-level cache. A row there
is as long as the next power of two, so that a tile is a sequence of runs of 32 lanes, and a lane
always the same step. The loops below have constant lengths and take four runs at a time: that is
what the compiler turns into vector instructions with few stores. Every lane sums in float64;
products of float32 are exact there, so that only additions round.

What was one step before lies one lane before, so a tile is handed over with the element ahead of
it. Only at the first step of a row that is another row's: what lands in those lanes is dropped, and
`_add_first` compares with the step before the chunk. In a whole block a row is a run of lanes, and
a snapshot to compare with one number a run: `_add_sums_of_rows` and `_add_counts_of_rows` use it.
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
def _add_first(now: Array, pitch: int, rows: Array, carry: Array, firsts: Array) -> np.int64:
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
def _add_sums_of_rows(ahead: Array, one: Array, other: Array, size: int, totals: Array) -> None:
    # `_add_sums`, and the distances from two snapshots, one number a row.
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
def _add_counts_of_rows(
    ahead: Array, one: Array, other: Array, size: int, few: Array, count: Array
) -> None:
    # `_add_signed`, `_add_flips`, and the flips since two snapshots, one sign a row.
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
def _replace_first(lanes: Array, pitch: int, value: Any) -> None:
    lanes[::pitch] = 0
    lanes[0] = value


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


@numba.njit(**COMPILE)
def _add_tile(
    ahead: Array,
    size: int,
    pitch: int,
    rows: Array,
    references: Array,
    total: Array,
    product: Array,
    count: Array,
    origins: Array,
    aside: Array,
    signs: Array,
    others: Array,
    few: Array,
) -> None:
    now, own = ahead[1:], signs[1:]
    _sign(now, size, own)
    together = 0
    if pitch == LANES and not product.shape[0]:
        together = min(references.shape[0], 2)
        for k in range(together):
            _pick(references[k], rows, size // pitch, origins[k], others[k])
        _add_counts_of_rows(signs, others[0], others[1], size, few, count[: COUNTS + together])
        _add_sums_of_rows(ahead, origins[0], origins[1], size, total)
    else:
        _add_signed(own, size, few, count[0])
        _add_flips(own, signs, size, few, count[1])
        _add_sums(now, ahead, size, total)
    for k in range(together, references.shape[0]):
        _pick(references[k], rows, size // pitch, origins[k], others[0])
        _spread(origins[k], pitch, size, aside)
        _add_distance(now, aside, size, total[SUMS + k])
        _sign(aside, size, others[0])
        _add_flips(own, others[0], size, few, count[COUNTS + k])
        if product.shape[0]:
            _add_product(now, aside, size, product[PRODUCTS + k])
    if product.shape[0]:
        _add_plain(now, size, product[0])
        _add_product(now, ahead, size, product[1])


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
    scratch = np.zeros(TILE + 1, np.float32)
    aside = np.zeros(TILE, np.float32)
    origins = np.zeros((max(references.shape[0], 2), TILE), np.float32)
    signs = np.zeros(TILE + 1, np.int8)
    others = np.zeros((2, TILE), np.int8)
    total = np.empty((max(sums.shape[0], SUMS + 2), LANES), np.float64)
    product = np.empty((products.shape[0], LANES), np.float64)
    count = np.empty((counts.shape[0], LANES), np.int64)
    extreme = np.empty(2 * LANES, np.float32)
    few = np.empty(4 * LANES, np.int8)
    firsts = np.empty(2, np.float64)
    for s in range(segments.shape[0]):
        group, low, high = segments[s]
        total[:] = 0
        product[:] = 0
        count[:] = 0
        extreme[:LANES] = np.inf
        extreme[LANES:] = -np.inf
        firsts[:] = 0
        first_flips = np.int64(0)
        for start_row in range(low, high, TILE // pitch):
            rows = order[start_row : min(start_row + TILE // pitch, high)]
            real = rows.size * pitch
            size = -(-real // GROUP) * GROUP
            ahead = scratch
            together = rows[-1] - rows[0] == rows.size - 1
            if real == TILE and chunk.shape[1] == pitch and together and rows[0]:
                # Rows of a group are in increasing order, so these are neighbours: no copy.
                ahead = flat[rows[0] * pitch - 1 : rows[0] * pitch + TILE]
            else:
                _fill(chunk, start, columns, rows, pitch, scratch[1:])
            now = ahead[1:]
            first_flips += _add_first(now, pitch, rows, carry, firsts)
            _keep_last(now, columns, pitch, rows, carry)
            # Beyond the last row: no extreme, nothing to sum.
            scratch[1 + real : 1 + size] = np.nan
            _add_extremes(now, size, extreme)
            scratch[1 + real : 1 + size] = 0
            _add_tile(
                ahead,
                size,
                pitch,
                rows,
                references,
                total,
                product,
                count,
                origins,
                aside,
                signs,
                others,
                few,
            )
        _replace_first(total[2], pitch, firsts[0])
        _replace_first(count[1], pitch, first_flips)
        if product.shape[0]:
            _replace_first(product[1], pitch, firsts[1])
        _fold(total[: sums.shape[0]], pitch, sums[:, group])
        _fold(product, pitch, products[:, group])
        _fold(count, pitch, counts[:, group])
        _fold_extremes(extreme, pitch, extremes[:, group])
