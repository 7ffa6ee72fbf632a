"""Summarise results in a table: mean and deviation over replicates, and what differs how surely."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from ckptlab.experiments.results.replicates import over_replicates
from ckptlab.experiments.results.statistics import against_baseline, baseline_of

SHOWN: tuple[str, ...] = (
    "accuracy",
    "instability",
    "loss_barrier",
    "density",
    "empty_tensors",
    "effective_std",
)
"""Variables of the table, if they are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A header, and a row for each combination of coordinates that has results."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def summarise(results: xr.Dataset) -> Summary:
    """Summarise results over replicates, as ``mean ± std (n)``.

    A last column compares accuracies with the baseline of the study, where there are replicates to
    compare: the difference, its interval and p.
    """
    dims = [str(dim) for dim in results["state"].dims if dim != "replicate"]
    # A dim of one coordinate distinguishes nothing.
    named = [dim for dim in dims if results.sizes[dim] > 1] or dims[:1]
    shown = [name for name in SHOWN if name in results and _is_cell(results[name], results)]
    reduced = [over_replicates(results, name) for name in shown]
    baseline, compared = baseline_of(results), against_baseline(results, "accuracy")
    if compared is not None and not compared.notnull().any():
        compared = None
    rows = []
    for at in product(*(results[dim].values for dim in dims)):
        place = dict(zip(dims, at, strict=True))
        states = np.atleast_1d(results["state"].sel(place).values)
        if (states == "none").all():
            continue
        labels = [str(place[dim]) for dim in named]
        cells = [_cell(part.sel(place)) for part in reduced]
        if compared is not None:
            cells.append(str(compared.sel(place).item() or "–"))
        done = int((states == "done").sum())
        rows.append((*labels, *cells, f"{done}/{len(states)}"))
    told = () if compared is None or baseline is None else (f"accuracy − {baseline[2]}",)
    return Summary(columns=(*named, *shown, *told, "done"), rows=rows)


def _is_cell(variable: xr.DataArray, results: xr.Dataset) -> bool:
    return set(variable.dims) <= set(results["state"].dims) and variable.ndim > 0


def _cell(reduced: xr.Dataset) -> str:
    mean, std = float(reduced["mean"]), float(reduced["std"])
    if np.isnan(mean):
        return "–"
    count = int(reduced["count"])
    return f"{mean:.4f} ({count})" if np.isnan(std) else f"{mean:.4f} ± {std:.4f} ({count})"
