"""The compiled kernel of the health check: counts and sketches from one visit to each weight."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SIGNS: npt.NDArray[np.float64] = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), 65537)
"""Random signs, for elements modulo their number."""


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
    square: Array,
) -> None:
    """Add a stretch of a tensor's weights, float32 of shape (step, elements), to what is kept.

    `previous` is the step before the first; the stretch begins at element `start` of the tensor and
    at `place` of the snapshot. `sketch` and `whole`, shape (step, buckets), take sums under signs,
    `counts`, shape (step, 2), how many weights changed and how many are not finite. Sums go on
    element by element, so that they do not depend on how weights are cut.
    """
    steps, elements = values.shape
    bits, before = values.view(np.uint32), previous.view(np.uint32)
    for t in range(steps):
        earlier = before if t == 0 else bits[t - 1]
        now = bits[t]
        changed = 0
        for i in range(elements):
            changed += now[i] != earlier[i]
        counts[t, 0] += changed
        own, all_ = start % sketch.shape[1], place % whole.shape[1]
        sign, sign_all = start % signs.size, place % signs.size
        total, broken = square[t], 0
        for i in range(elements):
            value = np.float64(values[t, i])
            if np.isfinite(value):
                sketch[t, own] += signs[sign] * value
                whole[t, all_] += signs[sign_all] * value
                total += value * value
            else:
                broken += 1
            own = own + 1 if own + 1 < sketch.shape[1] else 0
            all_ = all_ + 1 if all_ + 1 < whole.shape[1] else 0
            sign = sign + 1 if sign + 1 < signs.size else 0
            sign_all = sign_all + 1 if sign_all + 1 < signs.size else 0
        square[t] = total
        counts[t, 1] += broken
