"""The compiled kernel of the health check: counts and sketches of a stretch of weights.

Several short loops, each of which the compiler makes vectors of, are faster than one that does all.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SIGNS: npt.NDArray[np.float64] = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), 65537)
"""Random signs, for elements modulo their number."""

LANES = 8
"""Sums of squares that are kept beside each other: an element goes to its number modulo these."""

_TURNED = 128
"""Elements that are turned over together, so that both sides stay in the first cache."""


@numba.njit(nogil=True, cache=True)
def by_step(values: Array) -> Array:
    """Return float32 of shape (step, elements), however it lies in memory, in C order, −0 as 0."""
    steps, elements = values.shape
    out = np.empty((steps, elements), np.float32)
    for start in range(0, elements, _TURNED):
        stop = min(start + _TURNED, elements)
        for t in range(steps):
            for i in range(start, stop):
                out[t, i] = values[t, i] + np.float32(0)
    return out


@numba.njit(nogil=True, cache=True)
def add_stretch(
    values: Array,
    previous: Array,
    start: int,
    place: int,
    signs: Array,
    sketch: Array,
    whole: Array,
    counts: Array,
    squares: Array,
) -> None:
    """Add a stretch of a tensor's weights, float32 of shape (step, elements), to what is kept.

    `previous` is the step before the first; the stretch begins at element `start` of the tensor and
    at `place` of the snapshot. `sketch` and `whole`, shape (step, buckets), take sums under signs,
    `squares`, shape (step, lanes), sums of squares, `counts`, shape (step, 2), how many weights
    changed and how many are not finite. Sums go on element by element, so that they do not depend
    on how weights are cut.
    """
    steps, elements = values.shape
    bits, before = values.view(np.uint32), previous.view(np.uint32)
    finite = np.empty(elements, np.float64)
    for t in range(steps):
        earlier = before if t == 0 else bits[t - 1]
        now, row = bits[t], values[t]
        changed = broken = 0
        for i in range(elements):
            changed += now[i] != earlier[i]
            broken += (now[i] & 0x7F800000) == 0x7F800000
        for i in range(elements):
            finite[i] = row[i]
        if broken:
            for i in range(elements):
                if not np.isfinite(finite[i]):
                    finite[i] = 0.0
        counts[t, 0] += changed
        counts[t, 1] += broken
        _add_signed(finite, start, signs, sketch[t])
        _add_signed(finite, place, signs, whole[t])
        _add_squares(finite, start, squares[t])


@numba.njit(nogil=True, cache=True)
def _add_signed(values: Array, start: int, signs: Array, sums: Array) -> None:
    """Add values, from element `start` on, under signs to the buckets of their numbers."""
    at, elements = 0, len(values)
    while at < elements:
        own, sign = (start + at) % len(sums), (start + at) % len(signs)
        count = min(elements - at, len(sums) - own, len(signs) - sign)
        # Slices, so that the compiler sees that no index is negative.
        into, signed, part = sums[own : own + count], signs[sign : sign + count], values[at:]
        for i in range(count):
            into[i] += signed[i] * part[i]
        at += count


@numba.njit(nogil=True, cache=True)
def _add_squares(values: Array, start: int, sums: Array) -> None:
    at, elements = 0, len(values)
    while at < elements:
        lane = (start + at) % LANES
        if lane or elements - at < LANES:
            sums[lane] += values[at] * values[at]
            at += 1
            continue
        a, b, c, d = sums[0], sums[1], sums[2], sums[3]
        e, f, g, h = sums[4], sums[5], sums[6], sums[7]
        while at + LANES <= elements:
            a += values[at] * values[at]
            b += values[at + 1] * values[at + 1]
            c += values[at + 2] * values[at + 2]
            d += values[at + 3] * values[at + 3]
            e += values[at + 4] * values[at + 4]
            f += values[at + 5] * values[at + 5]
            g += values[at + 6] * values[at + 6]
            h += values[at + 7] * values[at + 7]
            at += LANES
        sums[0], sums[1], sums[2], sums[3] = a, b, c, d
        sums[4], sums[5], sums[6], sums[7] = e, f, g, h
