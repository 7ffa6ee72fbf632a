"""Compare replicates: differences with intervals, paired over seeds where they are shared.

Everything that tells two groups of replicates apart does it here: summaries, reports, and pages
made of results.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.experiments.results.replicates import distinct_replicates

CONFIDENCE = 0.95
"""Of every interval."""

FEWEST = 2
"""One value has no deviation."""

BASELINES: Mapping[str, tuple[str, Any, str]] = {
    "imp": ("level", 0, "dense"),
    "perturb": ("perturbation", "none", "unperturbed"),
    "pretrain": ("length", 0, "not pre-trained"),
    "critical": ("duration", 0, "no deficit"),
}
"""What results of each kind are compared with: a dim, its coordinate, and how it is called."""

Values = Sequence[float] | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The difference of two means, its interval of `CONFIDENCE`, and the p of no difference.

    `test` is ``paired t`` over `count` seeds, or ``Welch's t`` of groups of `count` values.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    count: tuple[int, ...]

    def __str__(self) -> str:
        groups = (
            "" if len(self.count) == 1 else f", {self.test}, {self.count[0]} and {self.count[1]}"
        )
        told = f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{told}, p = {self.p:.2g}{groups}"


def compare(values: Values, others: Values, *, paired: bool = True) -> Comparison | None:
    """Compare the means of two groups of replicates by Student's t.

    Parameters
    ----------
    values, others : sequence of float, shape (replicate,)
        What the mean of `others` is subtracted from, and these; NaN does not count.
    paired : bool
        Whether values at the same position share their seeds. Those that have a partner are then
        tested by pairs, which takes out what differs from seed to seed; where fewer than
        `FEWEST` have one, or seeds differ, it is Welch's test of both groups.

    Returns
    -------
    Comparison or None
        None where a group has fewer than `FEWEST` values.
    """
    from scipy import stats

    a, b = np.asarray(values, float), np.asarray(others, float)
    both = np.isfinite(a) & np.isfinite(b) if paired and len(a) == len(b) else np.zeros(0, bool)
    pairs = int(both.sum())
    count: tuple[int, ...] = (pairs,)
    with warnings.catch_warnings():
        # Of equal values the deviation is 0, and scipy warns of digits that are lost.
        warnings.simplefilter("ignore", RuntimeWarning)
        if pairs >= FEWEST:
            found = stats.ttest_rel(a[both], b[both])
            test = "paired t"
            difference = float((a[both] - b[both]).mean())
        else:
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            if min(len(a), len(b)) < FEWEST:
                return None
            found = stats.ttest_ind(a, b, equal_var=False)
            test, count = "Welch's t", (len(a), len(b))
            difference = float(a.mean() - b.mean())
        low, high = map(float, found.confidence_interval(CONFIDENCE))
    return Comparison(
        difference=difference, low=low, high=high, p=float(found.pvalue), test=test, count=count
    )


def interval(values: Values) -> tuple[float, float]:
    """Return the interval of the mean of some replicates by Student's t; NaN for fewer than two."""
    from scipy import stats

    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if len(known) < FEWEST:
        return float("nan"), float("nan")
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * stats.sem(known)
    return float(known.mean() - reach), float(known.mean() + reach)


def baseline_of(results: xr.Dataset) -> tuple[str, Any, str] | None:
    """Return what results are compared with, if it is among them."""
    found = BASELINES.get(str(results.attrs.get("kind")))
    if found is None or found[0] not in results.dims or found[1] not in results[found[0]].values:
        return None
    return found


def against_baseline(results: xr.Dataset, name: str) -> xr.DataArray | None:
    """Compare each cell of a variable with the baseline at its other coordinates.

    Returns a `Comparison` for each cell, over the dims other than ``replicate``, or None where
    there are too few values and at the baseline itself; None if there is no baseline.
    """
    baseline = baseline_of(results)
    if baseline is None or name not in results or "replicate" not in results[name].dims:
        return None
    dim, at, _ = baseline
    values = distinct_replicates(results, name)
    others = [str(d) for d in values.dims if d != "replicate"]
    table = np.full([values.sizes[d] for d in others], None, object)
    for place in product(*(range(values.sizes[d]) for d in others)):
        cell = values.isel(dict(zip(others, place, strict=True)))
        if cell[dim].item() != at:
            base = values.isel({d: i for d, i in zip(others, place, strict=True) if d != dim})
            table[place] = compare(cell.values, base.sel({dim: at}).values)
    return xr.DataArray(table, dims=others, coords={d: values[d] for d in others})
