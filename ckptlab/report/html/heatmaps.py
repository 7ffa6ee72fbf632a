"""Charts of one run at a time: heat maps of layers, and paths of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.report.html.arrays import Columns
from ckptlab.report.html.charts import Axis, Chart

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A heat map of one run.

    Parameters
    ----------
    run : int
        Position among the page's runs.
    rows : tuple of str
        Their names, from the top.
    x : ndarray, shape (columns,)
        First step of each column.
    end : int
        Where the last column ends.
    z : ndarray, shape (rows, columns)
        Not negative; drawn on a logarithmic scale.
    """

    run: int
    rows: tuple[str, ...]
    x: Array
    end: int
    z: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Path3:
    """A path through principal components of one run.

    Parameters
    ----------
    run : int
        Position among the page's runs.
    step : ndarray, shape (points,)
        Where on the path.
    components : ndarray, shape (2 or 3, points)
        Projections.
    shares : ndarray, shape (2 or 3,)
        Of the variance.
    """

    run: int
    step: Array
    components: Array
    shares: Array


@dataclass(frozen=True, kw_only=True)
class HeatChart(Chart):
    """Heat maps of which one run's is shown at a time, on one scale for all.

    Parameters
    ----------
    grids : tuple of Grid
        One for each run that has one.
    percent : bool
        Written per cent.
    """

    kind = "heat"
    grids: tuple[Grid, ...]
    percent: bool = False

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from."""
        least, most = _positive_range([grid.z for grid in self.grids])
        return {
            **self.heading(columns),
            "axis": Axis().specification([0, 1]),
            "percent": self.percent,
            "panels": [
                {
                    "run": grid.run,
                    "rows": list(grid.rows),
                    "x": columns.add(grid.x),
                    "end": grid.end,
                    "z": columns.add(grid.z),
                    "least": least,
                    "most": most,
                }
                for grid in self.grids
            ],
        }


@dataclass(frozen=True, kw_only=True)
class PathChart(Chart):
    """Paths of which one run's is shown at a time: in a plane, or in space if they have three.

    Parameters
    ----------
    paths : tuple of Path3
        One for each run that has one.
    """

    paths: tuple[Path3, ...]
    kind = "path"

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from."""
        return {
            **self.heading(columns),
            "axis": Axis(step=False).specification([0, 1]),
            "panels": [
                {
                    "run": path.run,
                    "step": columns.add(path.step),
                    "components": [columns.add(values) for values in path.components],
                    "shares": [float(share) for share in path.shares],
                }
                for path in self.paths
            ],
        }


@dataclass(frozen=True, kw_only=True)
class SpaceChart(PathChart):
    """The same in space."""

    kind = "space"


def _positive_range(tables: list[Array]) -> tuple[float, float]:
    """Return the ends of a logarithmic scale; all but the smallest per cent of values are on it."""
    values = np.concatenate([table[(table > 0) & np.isfinite(table)] for table in tables])
    if not len(values):
        return 0.1, 1.0
    return float(np.quantile(values, 0.01)), float(values.max())
