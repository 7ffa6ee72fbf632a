"""Fewer points for the same picture, where a run is too long for a page."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def stretches(steps: Array, most: int) -> npt.NDArray[np.int64]:
    """Cut increasing steps into stretches that are short on a linear and on a logarithmic axis.

    Parameters
    ----------
    steps : ndarray, shape (step,)
        Increasing, at least one.
    most : int
        At most so many stretches.

    Returns
    -------
    ndarray of int64
        First position of each; the first is 0.
    """
    first, last = float(steps[0]), float(steps[-1])
    half = max(most // 2, 1)
    even = np.linspace(first, last, half, endpoint=False)
    ratios = np.geomspace(max(first, 0.5), max(last, 1), half, endpoint=False)
    starts = np.searchsorted(steps, np.concatenate([[first], even, ratios]))
    unique: npt.NDArray[np.int64] = np.unique(starts[starts < len(steps)])
    return unique


def extremes(values: Array, starts: Array) -> npt.NDArray[np.int64]:
    """Find what a line must keep: of each stretch the lowest and the highest value.

    Parameters
    ----------
    values : ndarray, shape (step,)
        NaN where nothing is known.
    starts : ndarray of int
        First position of each stretch.

    Returns
    -------
    ndarray of int64
        Positions, increasing; both ends among them, and one of each stretch without a value.
    """
    kept = [0, len(values) - 1]
    for a, b in zip(starts, [*starts[1:], len(values)], strict=True):
        part = values[a:b]
        if np.isnan(part).all():
            kept.append(int(a))
        else:
            kept += [int(a + np.nanargmin(part)), int(a + np.nanargmax(part))]
    return np.unique(kept).astype(np.int64)


def means(values: Array, starts: Array) -> npt.NDArray[np.float64]:
    """Take the mean of every stretch.

    Parameters
    ----------
    values : ndarray, shape (rows, step)
        NaN does not count.
    starts : ndarray of int
        First position of each stretch.

    Returns
    -------
    ndarray of float64, shape (rows, stretches)
        NaN where a stretch has no value.
    """
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0), starts, axis=1)
    counts = np.add.reduceat(known, starts, axis=1, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
