"""Results of an experiment as a table for people: mean and standard deviation over replicates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from ckptlab.experiments.results.replicates import over_replicates

SHOWN: tuple[str, ...] = ("accuracy", "instability", "loss_barrier", "density", "effective_std")
"""Variables of a table, as far as there are any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A table.

    Parameters
    ----------
    columns : tuple of str
        Its header.
    rows : list of tuple of str
        One for each combination of coordinates that has results.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def summarise(results: xr.Dataset) -> Summary:
    """Reduce results over replicates.

    Parameters
    ----------
    results : Dataset
        As `gather` gives them.

    Returns
    -------
    Summary
        With ``mean ± std`` as `over_replicates` gives them.
    """
    dims = [str(dim) for dim in results["state"].dims if dim != "replicate"]
    # A dim of one coordinate tells nothing apart.
    named = [dim for dim in dims if results.sizes[dim] > 1] or dims[:1]
    shown = [name for name in SHOWN if name in results and _is_cell(results[name], results)]
    reduced = [over_replicates(results, name) for name in shown]
    rows = []
    for at in product(*(results[dim].values for dim in dims)):
        place = dict(zip(dims, at, strict=True))
        states = np.atleast_1d(results["state"].sel(place).values)
        if (states == "none").all():
            continue
        labels = [str(place[dim]) for dim in named]
        cells = [_cell(part.sel(place)) for part in reduced]
        done = int((states == "done").sum())
        rows.append((*labels, *cells, f"{done}/{len(states)}"))
    return Summary(columns=(*named, *shown, "done"), rows=rows)


def _is_cell(variable: xr.DataArray, results: xr.Dataset) -> bool:
    return set(variable.dims) <= set(results["state"].dims) and variable.ndim > 0


def _cell(reduced: xr.Dataset) -> str:
    mean, std = float(reduced["mean"]), float(reduced["std"])
    if np.isnan(mean):
        return "–"
    return f"{mean:.4f}" if np.isnan(std) else f"{mean:.4f} ± {std:.4f}"
