"""Read the results of a study for charts: lines of means over replicates, levels, and tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.experiments.results.replicates import over_replicates
from ckptlab.experiments.results.statistics import against_baseline, baseline_of
from ckptlab.report.html.charts import Line, TableColumn, XAxis
from ckptlab.report.html.numbers import format_number
from ckptlab.report.html.outline import Choice

Array = npt.NDArray[Any]
At = Mapping[str, Any]

SHARES: tuple[str, ...] = ("accuracy", "density", "error", "instability")
"""Variables that are written per cent."""

MEANS = "Means over replicates; bands are standard deviations of the sample (n − 1)."
"""The caption of lines."""


class StudyResults:
    """The results of a study, with means over replicates.

    `dims` are those of the study other than ``replicate``. `density` maps each level to the share
    of the prunable weights that it keeps, NaN if unknown.
    """

    def __init__(self, results: xr.Dataset) -> None:
        self.results = results
        self.dims = tuple(str(dim) for dim in results["state"].dims if dim != "replicate")
        self.density = _densities(results)
        self.reduced = cache(self._reduced)

    def values(self, dim: str) -> list[Any]:
        """Return the coordinates of a dim, or ``[None]`` if the study has no such dim."""
        return self.results[dim].values.tolist() if dim in self.dims else [None]

    def has(self, name: str) -> bool:
        """Return whether a variable has any values."""
        return name in self.results and bool(self.results[name].notnull().any())

    def mean(self, name: str, at: At) -> float:
        """Return the mean of one cell, NaN if it is missing."""
        return float(_at(self.reduced(name)["mean"], at)) if self.has(name) else float("nan")

    def line(self, variable: str, along: str, at: At, /, **look: Any) -> Line | None:
        """Return the line of means over replicates along a dim, None if there are no values.

        ``level`` is drawn by density. `at` holds the other coordinates, `look` goes to `Line`.
        Values missing between others leave gaps.
        """
        if not self.has(variable):
            return None
        part = _at(self.reduced(variable), at)
        x = part[along].values
        if along == "level":
            x = np.array([self.density[int(level)] for level in x])
        kept = np.isfinite(x.astype(float))
        order = np.flatnonzero(kept)[np.argsort(x[kept], kind="stable")]
        y = part["mean"].values[order]
        known = np.flatnonzero(np.isfinite(y))
        if not len(known):
            return None
        inside = order[known[0] : known[-1] + 1]
        return Line(
            x=x[inside],
            y=part["mean"].values[inside],
            spread=part["std"].values[inside],
            count=part["count"].values[inside],
            **{"name": "", **look},
        )

    def table(self, name: str, at: At) -> tuple[TableColumn, ...]:
        """Tabulate a variable, a row for each planned cell at the given coordinates.

        Columns are coordinates, density, mean, standard deviation, number of replicates, the
        difference from the study's baseline with its interval and test, and the value of each
        replicate.
        """
        wanted = {dim: [value] for dim, value in at.items() if value is not None}
        part = _at(self.reduced(name), wanted)
        states = _at(self.results["state"], wanted)
        dims = [
            *(d for d in self.dims if d in part.dims),
            *(d for d in part.dims if d not in self.dims),
        ]
        mean = part["mean"].transpose(*dims)
        planned = _planned(states).broadcast_like(mean).transpose(*dims).values.ravel()
        grid = np.meshgrid(*(part[dim].values for dim in dims), indexing="ij")
        columns = [
            TableColumn(name=str(dim), values=values.ravel()[planned])
            for dim, values in zip(dims, grid, strict=True)
        ]
        if "level" in dims and np.isfinite(list(self.density.values())).any():
            levels = grid[dims.index("level")].ravel()[planned]
            kept = np.array([self.density[int(level)] for level in levels])
            columns.append(TableColumn(name="density", values=kept, percent=True))
        share = name in SHARES
        for label, values, percent in (
            (name, mean, share),
            (f"{name} std", part["std"], share),
            ("replicates", part["count"], False),
            *self._each(name, wanted, share),
        ):
            flat = values.transpose(*dims).values.ravel()[planned]
            columns.append(TableColumn(name=label, values=flat, percent=percent))
        columns += self._differences(name, wanted, dims, planned)
        return tuple(columns)

    def missing(self, name: str, at: At) -> str:
        """Say how many of the planned values of a variable are missing."""
        wanted = {dim: [value] for dim, value in at.items() if value is not None}
        planned = _at(self.results["state"], wanted) != "none"
        there = (
            _at(self.results[name], wanted).notnull() if name in self.results else planned & False
        )
        others = [dim for dim in there.dims if dim not in planned.dims]
        absent = int((planned & ~there.any(others)).sum())
        return f"{absent:,} of {int(planned.sum()):,} values are missing." if absent else ""

    def level_name(self, level: int | None) -> str:
        """Name a level by its density."""
        if level is None:
            return ""
        kept = self.density[level]
        return format_number(kept, percent=True) if np.isfinite(kept) else f"level {level}"

    def choice(self) -> Choice:
        """Return the choice among the levels."""
        options = tuple(map(self.level_name, self.values("level")))
        return Choice(name="level", legend="Weights kept", options=options)

    def density_axis(self) -> XAxis:
        """Return the x axis of densities, from dense to sparse."""
        known = sorted((d for d in self.density.values() if np.isfinite(d)), reverse=True)
        return XAxis(
            name="prunable weights kept [per cent]",
            step=False,
            switched=True,
            percent=True,
            backwards=True,
            ticks=tuple(known),
        )

    def _differences(
        self, name: str, wanted: At, dims: Sequence[Hashable], planned: Array
    ) -> list[TableColumn]:
        compared, baseline = against_baseline(self.results, name), baseline_of(self.results)
        if compared is None or baseline is None or not compared.notnull().any():
            return []
        found = _at(compared, wanted).transpose(*dims).values.ravel()[planned]
        share = name in SHARES
        columns = [
            (f"less {baseline[2]}", "difference", share),
            ("95 % from", "low", share),
            ("95 % to", "high", share),
            ("p", "p", False),
        ]
        return [
            TableColumn(
                name=label,
                values=np.array([getattr(cell, field, np.nan) for cell in found]),
                percent=percent,
            )
            for label, field, percent in columns
        ] + [TableColumn(name="test", values=np.array([getattr(c, "test", "") for c in found]))]

    def _each(self, name: str, wanted: At, share: bool) -> list[tuple[str, xr.DataArray, bool]]:
        values = _at(self.results[name], wanted)
        if values.sizes.get("replicate", 1) < 2:
            return []
        return [
            (f"{name} of replicate {replicate}", values.sel(replicate=replicate), share)
            for replicate in values["replicate"].values
        ]

    def _reduced(self, name: str) -> xr.Dataset:
        return over_replicates(self.results, name)


def updates_axis(name: str, switched: bool = True) -> XAxis:
    """Return an x axis of optimizer updates that is not the step axis of the page."""
    return XAxis(name=f"{name} [optimizer updates]", step=False, switched=switched)


def span(values: Sequence[Array], room: float = 0.06) -> tuple[float, float]:
    """Return different ends of an axis that all finite values fit on, with `room` as a share."""
    all_of_them = np.concatenate([np.ravel(part) for part in values])
    known = all_of_them[np.isfinite(all_of_them)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    margin = room * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _at(values: Any, at: At) -> Any:
    """Select by the coordinates that `values` has."""
    return values.sel({dim: at[dim] for dim in at if dim in values.dims and at[dim] is not None})


def _planned(states: xr.DataArray) -> xr.DataArray:
    planned = states != "none"
    return planned.any("replicate") if "replicate" in planned.dims else planned


def _densities(results: xr.Dataset) -> dict[int, float]:
    if "level" not in results.dims:
        return {}
    levels = [int(level) for level in results["level"].values]
    others: list[Hashable] = []
    found = np.full(len(levels), np.nan)
    if "density" in results:
        others = [dim for dim in results["density"].dims if dim != "level"]
        found = results["density"].max(others).values
    # Until a job reports its density, assume what so many prunings leave.
    share = 1 - float((results.attrs.get("study") or {}).get("fraction", np.nan))
    return {
        level: float(kept) if np.isfinite(kept) else share**level
        for level, kept in zip(levels, found, strict=True)
    }
