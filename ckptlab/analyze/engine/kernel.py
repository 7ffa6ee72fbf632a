"""The compiled kernel: every sum of the cheap metrics, from one visit to each decoded chunk.

Rows are taken a tile at a time, with scratch arrays that stay in the first-level cache. A row there
is as long as the next power of two, so that a tile is a sequence of runs of 32 lanes, and a lane
always the same step.

What was one step before lies one lane before, so a tile is handed over with the element ahead of
it. Only at the first step of a row that is another row's: what lands in those lanes is dropped, and
`add_first` compares with the step before the chunk. In a whole block a row is a run of lanes, and
a snapshot to compare with one number a run: `add_sums_of_rows` and `add_counts_of_rows` use it.
"""

from __future__ import annotations

import numba
import numpy as np

from ckptlab.analyze.engine.lanes import (
    COMPILE,
    GROUP,
    LANES,
    TILE,
    Array,
    add_counts_of_rows,
    add_distance,
    add_extremes,
    add_first,
    add_flips,
    add_plain,
    add_product,
    add_signed,
    add_sums,
    add_sums_of_rows,
    fill,
    fold,
    fold_extremes,
    keep_last,
    pick,
    replace_first,
    sign,
    spread,
)

SUMS = 3
"""Sums without a reference."""

PRODUCTS = 2
"""Signed sums without a reference."""

COUNTS = 2
"""Counts without a reference."""


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
    sign(now, size, own)
    together = 0
    if pitch == LANES and not product.shape[0]:
        together = min(references.shape[0], 2)
        for k in range(together):
            pick(references[k], rows, size // pitch, origins[k], others[k])
        add_counts_of_rows(signs, others[0], others[1], size, few, count[: COUNTS + together])
        add_sums_of_rows(ahead, origins[0], origins[1], size, total)
    else:
        add_signed(own, size, few, count[0])
        add_flips(own, signs, size, few, count[1])
        add_sums(now, ahead, size, total)
    for k in range(together, references.shape[0]):
        pick(references[k], rows, size // pitch, origins[k], others[0])
        spread(origins[k], pitch, size, aside)
        add_distance(now, aside, size, total[SUMS + k])
        sign(aside, size, others[0])
        add_flips(own, others[0], size, few, count[COUNTS + k])
        if product.shape[0]:
            add_product(now, aside, size, product[PRODUCTS + k])
    if product.shape[0]:
        add_plain(now, size, product[0])
        add_product(now, ahead, size, product[1])


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
                fill(chunk, start, columns, rows, pitch, scratch[1:])
            now = ahead[1:]
            first_flips += add_first(now, pitch, rows, carry, firsts)
            keep_last(now, columns, pitch, rows, carry)
            # Beyond the last row: no extreme, nothing to sum.
            scratch[1 + real : 1 + size] = np.nan
            add_extremes(now, size, extreme)
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
        replace_first(total[2], pitch, firsts[0])
        replace_first(count[1], pitch, first_flips)
        if product.shape[0]:
            replace_first(product[1], pitch, firsts[1])
        fold(total[: sums.shape[0]], pitch, sums[:, group])
        fold(product, pitch, products[:, group])
        fold(count, pitch, counts[:, group])
        fold_extremes(extreme, pitch, extremes[:, group])
