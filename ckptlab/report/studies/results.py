"""Results of a study as charts take them: lines of means, names of levels, tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.experiments.results.replicates import over_replicates
from ckptlab.report.html.charts import Axis, Column, Line
from ckptlab.report.html.numbers import number
from ckptlab.report.html.outline import Choice

Array = npt.NDArray[Any]
At = Mapping[str, Any]

SHARES: tuple[str, ...] = ("accuracy", "density", "error", "instability")
"""Variables that are written per cent."""

MEANS = "Means over replicates; bands are standard deviations of the sample."
"""What lines are."""


class Cells:
    """The results of a study, with means over replicates.

    Parameters
    ----------
    results : Dataset
        As `gather` gives them.

    Attributes
    ----------
    dims : tuple of str
        Of the study, but for replicates.
    density : dict of int to float
        Share of the prunable weights that each level keeps; NaN where nobody knows.
    """

    def __init__(self, results: xr.Dataset) -> None:
        self.results = results
        self.dims = tuple(str(dim) for dim in results["state"].dims if dim != "replicate")
        self.density = _densities(results)
        self.reduced = cache(self._reduced)

    def values(self, dim: str) -> list[Any]:
        """Return the coordinates of a dim; None alone where the study has no such dim."""
        return self.results[dim].values.tolist() if dim in self.dims else [None]

    def has(self, name: str) -> bool:
        """Say whether anything is known of a variable."""
        return name in self.results and bool(self.results[name].notnull().any())

    def mean(self, name: str, at: At) -> float:
        """Return the mean of one cell; NaN if it is not there."""
        return float(_at(self.reduced(name)["mean"], at)) if self.has(name) else float("nan")

    def line(self, variable: str, along: str, at: At, /, **look: Any) -> Line | None:
        """Draw means over replicates along a dim.

        Parameters
        ----------
        variable : str
            Its name.
        along : str
            The dim; ``level`` is drawn by density.
        at : mapping
            The other coordinates.
        **look : object
            What else `Line` takes; `name` is empty unless given.

        Returns
        -------
        Line or None
            None if nothing is known of it. What is missing between others is a gap.
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

    def table(self, name: str, at: At) -> tuple[Column, ...]:
        """Tabulate a variable: a row for each cell that was planned.

        Parameters
        ----------
        name : str
            The variable.
        at : mapping
            Coordinates of the rows, where not all are wanted.

        Returns
        -------
        tuple of Column
            Coordinates, density, mean, standard deviation, number of replicates, and what each of
            them gave.
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
            Column(name=str(dim), values=values.ravel()[planned])
            for dim, values in zip(dims, grid, strict=True)
        ]
        if "level" in dims and np.isfinite(list(self.density.values())).any():
            levels = grid[dims.index("level")].ravel()[planned]
            kept = np.array([self.density[int(level)] for level in levels])
            columns.append(Column(name="density", values=kept, percent=True))
        share = name in SHARES
        for label, values, percent in (
            (name, mean, share),
            (f"{name} std", part["std"], share),
            ("replicates", part["count"], False),
            *self._each(name, wanted, share),
        ):
            flat = values.transpose(*dims).values.ravel()[planned]
            columns.append(Column(name=label, values=flat, percent=percent))
        return tuple(columns)

    def missing(self, name: str, at: At) -> str:
        """Say how many of the planned values of a variable are not there."""
        wanted = {dim: [value] for dim, value in at.items() if value is not None}
        planned = _at(self.results["state"], wanted) != "none"
        there = (
            _at(self.results[name], wanted).notnull() if name in self.results else planned & False
        )
        others = [dim for dim in there.dims if dim not in planned.dims]
        absent = int((planned & ~there.any(others)).sum())
        return f"{absent:,} of {int(planned.sum()):,} values are missing." if absent else ""

    def level_name(self, level: int | None) -> str:
        """Name a level by what it keeps."""
        if level is None:
            return ""
        kept = self.density[level]
        return number(kept, percent=True) if np.isfinite(kept) else f"level {level}"

    def choice(self) -> Choice:
        """Let readers choose among the levels."""
        options = tuple(map(self.level_name, self.values("level")))
        return Choice(name="level", legend="Weights kept", options=options)

    def density_axis(self) -> Axis:
        """Return the axis that densities run along, from dense to sparse."""
        known = sorted((d for d in self.density.values() if np.isfinite(d)), reverse=True)
        return Axis(
            name="prunable weights kept [per cent]",
            step=False,
            switched=True,
            percent=True,
            backwards=True,
            ticks=tuple(known),
        )

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


def updates(name: str, switched: bool = True) -> Axis:
    """Return an axis that counts optimizer updates, but not those of one training."""
    return Axis(name=f"{name} [optimizer updates]", step=False, switched=switched)


def span(values: Sequence[Array], room: float = 0.06) -> tuple[float, float]:
    """Return the ends of an axis on which all values lie, with some room.

    Parameters
    ----------
    values : sequence of ndarray
        What is not finite does not count.
    room : float
        On either side, as a share.

    Returns
    -------
    (float, float)
        Different, also where all values are the same.
    """
    all_of_them = np.concatenate([np.ravel(part) for part in values])
    known = all_of_them[np.isfinite(all_of_them)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    margin = room * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _at(values: Any, at: At) -> Any:
    """Select by those of the coordinates that it has."""
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
    # What no job has told yet is what so many prunings leave.
    study = results.attrs.get("study") or {}
    share = 1 - float(study.get("fraction", np.nan))
    return {
        level: float(kept) if np.isfinite(kept) else share**level
        for level, kept in zip(levels, found, strict=True)
    }
