"""Reduce gathered results over their replicates: mean and sample standard deviation."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr


def over_replicates(results: xr.Dataset, name: str) -> xr.Dataset:
    """Return `mean`, `std` (of the sample, ddof 1; NaN of one value) and `count` of a variable.

    Replicates that share a training, since nothing in them is drawn, count as one; NaN does not
    count.
    """
    distinct = distinct_replicates(results, name)
    with warnings.catch_warnings():
        # The mean of no values and the deviation of one are NaN, as wanted.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = distinct.mean("replicate", skipna=True, keep_attrs=True)
        std = distinct.std("replicate", ddof=1, skipna=True, keep_attrs=True)
        std.attrs["ddof"] = 1
    return xr.Dataset({"mean": mean, "std": std, "count": distinct.notnull().sum("replicate")})


def distinct_replicates(results: xr.Dataset, name: str) -> xr.DataArray:
    """Return a variable with NaN where a replicate shares the training of an earlier one."""
    values = results[name]
    if "replicate" not in values.dims:
        values = values.expand_dims("replicate", -1)
    return values.where(~_repeated(results))


def _repeated(results: xr.Dataset) -> xr.DataArray:
    """Return whether the run of each cell is that of an earlier replicate."""
    if "replicate" not in results["job"].dims:
        return xr.DataArray(False)
    jobs = results["job"].transpose(..., "replicate")
    values = jobs.values
    repeated = np.zeros(values.shape, bool)
    for r in range(1, values.shape[-1]):
        same = (values[..., r : r + 1] == values[..., :r]).any(-1)
        repeated[..., r] = same & (values[..., r] != "")
    return jobs.copy(data=repeated)
