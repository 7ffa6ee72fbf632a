"""Fit straight lines to results by least squares, and test the correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FEWEST = 3
"""Two points always correlate perfectly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A line ``y = intercept + slope x`` through `count` points.

    `r` is Pearson's correlation and `p` the probability of one as strong, of either sign, without
    correlation: by the t distribution, for normal residuals.
    """

    slope: float
    intercept: float
    r: float
    p: float
    count: int


def fit_line(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Fit | None:
    """Fit a line to the points that are finite.

    None for fewer than `FEWEST` points, or where all x or all y are equal.
    """
    from scipy.special import stdtr

    known = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, float)[known], np.asarray(y, float)[known]
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    away_x, away_y = x - x.mean(), y - y.mean()
    slope = (away_x @ away_y) / (away_x @ away_x)
    r = float(np.clip((away_x @ away_y) / np.sqrt((away_x @ away_x) * (away_y @ away_y)), -1, 1))
    free = len(x) - 2
    t = abs(r) * np.sqrt(free / max(1 - r**2, np.finfo(float).tiny))
    return Fit(
        slope=float(slope),
        intercept=float(y.mean() - slope * x.mean()),
        r=r,
        p=float(2 * stdtr(free, -t)),
        count=len(x),
    )
