"""Downsample series that have more steps than a page should hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def bin_starts(steps: Array, most: int) -> npt.NDArray[np.int64]:
    """Cut increasing steps into at most `most` bins, narrow on linear and on logarithmic axes.

    Half the edges are evenly spaced and half are geometric. Returns the first position of each
    bin; the first is 0.
    """
    first, last = float(steps[0]), float(steps[-1])
    half = max(most // 2, 1)
    even = np.linspace(first, last, half, endpoint=False)
    ratios = np.geomspace(max(first, 0.5), max(last, 1), half, endpoint=False)
    starts = np.searchsorted(steps, np.concatenate([[first], even, ratios]))
    unique: npt.NDArray[np.int64] = np.unique(starts[starts < len(steps)])
    return unique


def extremes(values: Array, starts: Array) -> npt.NDArray[np.int64]:
    """Return the positions of the lowest and the highest value of each bin, and of both ends.

    A bin of NaN keeps its first position.
    """
    kept = [0, len(values) - 1]
    for a, b in zip(starts, [*starts[1:], len(values)], strict=True):
        part = values[a:b]
        if np.isnan(part).all():
            kept.append(int(a))
        else:
            kept += [int(a + np.nanargmin(part)), int(a + np.nanargmax(part))]
    return np.unique(kept).astype(np.int64)


def bin_means(values: Array, starts: Array) -> npt.NDArray[np.float64]:
    """Return the mean of each bin, shape (rows, bins); NaN in `values` does not count."""
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0), starts, axis=1)
    counts = np.add.reduceat(known, starts, axis=1, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
