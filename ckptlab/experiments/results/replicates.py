"""Means and standard deviations over the replicates of gathered results."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr


def over_replicates(results: xr.Dataset, name: str) -> xr.Dataset:
    """Reduce a variable of results over its replicates.

    Replicates that share a training, since nothing in them is drawn, count as one.

    Parameters
    ----------
    results : Dataset
        As `gather` gives them.
    name : str
        The variable.

    Returns
    -------
    Dataset
        Over the other dims of the variable: `mean`, `std` (of the sample; NaN of one value) and
        `count`. What is NaN does not count.
    """
    values = results[name]
    if "replicate" not in values.dims:
        values = values.expand_dims("replicate", -1)
    distinct = values.where(~_repeated(results))
    with warnings.catch_warnings():
        # Of no values the mean, and of one the deviation, is NaN: that is what is wanted.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = distinct.mean("replicate", skipna=True, keep_attrs=True)
        std = distinct.std("replicate", ddof=1, skipna=True, keep_attrs=True)
    return xr.Dataset({"mean": mean, "std": std, "count": distinct.notnull().sum("replicate")})


def _repeated(results: xr.Dataset) -> xr.DataArray:
    """Say of each cell whether its run is that of an earlier replicate."""
    if "replicate" not in results["job"].dims:
        return xr.DataArray(False)
    jobs = results["job"].transpose(..., "replicate")
    values = jobs.values
    repeated = np.zeros(values.shape, bool)
    for r in range(1, values.shape[-1]):
        same = (values[..., r : r + 1] == values[..., :r]).any(-1)
        repeated[..., r] = same & (values[..., r] != "")
    return jobs.copy(data=repeated)
