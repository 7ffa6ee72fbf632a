"""Results in Zarr and netCDF files: written whole, with their attributes."""

from __future__ import annotations

import os
import warnings

import numpy as np
import xarray as xr

from ckptlab.atomic import written_aside


def as_dataset(result: xr.DataArray | xr.Dataset) -> xr.Dataset:
    """Return a Dataset with the attributes of the result."""
    dataset = result if isinstance(result, xr.Dataset) else result.to_dataset()
    return dataset.assign_attrs(result.attrs)


def save_dataset(result: xr.DataArray | xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a result as Zarr or netCDF; what is there is replaced once the new one is whole.

    Parameters
    ----------
    result : DataArray or Dataset
        What to write.
    path : str or path-like
        Local; ``.nc`` for netCDF, anything else is a Zarr group.
    """
    dataset = _portable(as_dataset(result))
    with written_aside(path) as aside, warnings.catch_warnings():
        if aside.suffix == ".nc":
            dataset.to_netcdf(aside)
            return
        # Zarr warns that strings and consolidated metadata are newer than its specification.
        warnings.simplefilter("ignore")
        dataset.to_zarr(aside, mode="w", zarr_format=3, consolidated=True)


def _portable(dataset: xr.Dataset) -> xr.Dataset:
    """Make a dataset that netCDF and Zarr can hold: text as variable-length strings."""
    texts = [name for name, variable in dataset.variables.items() if variable.dtype == object]
    strings = np.dtypes.StringDType()
    return dataset.assign({name: dataset[name].astype(strings) for name in texts})
