"""Charts that show one run at a time: heat maps of layers, and paths of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.report.html.arrays import EmbeddedArrays
from ckptlab.report.html.charts import Chart, XAxis

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatGrid:
    """The heat map of one run: `z`, shape (rows, columns), not negative, on a logarithmic scale.

    `x` holds the first step of each column, and `end` is where the last column ends.
    """

    run: int
    rows: tuple[str, ...]
    x: Array
    end: int
    z: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentPath:
    """One run's path through 2 or 3 principal components; `shares` of the variance of each."""

    run: int
    step: Array
    components: Array
    shares: Array


@dataclass(frozen=True, kw_only=True)
class HeatChart(Chart):
    """A heat map for each run, on one scale, of which one is shown at a time."""

    kind = "heat"
    noun = "heat map"
    grids: tuple[HeatGrid, ...]
    percent: bool = False

    def drawing(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return a panel for each run."""
        least, most = _positive_range([grid.z for grid in self.grids])
        return {
            "axis": XAxis().to_json([0, 1]),
            "percent": self.percent,
            "panels": [
                {
                    "run": grid.run,
                    "rows": list(grid.rows),
                    "x": arrays.add(grid.x),
                    "end": grid.end,
                    "z": arrays.add(grid.z),
                    "least": least,
                    "most": most,
                }
                for grid in self.grids
            ],
        }


@dataclass(frozen=True, kw_only=True)
class PathChart(Chart):
    """The path of each run in the plane of two components, of which one is shown at a time."""

    kind = "path"
    paths: tuple[ComponentPath, ...]

    def drawing(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return a panel for each run."""
        return {
            "axis": XAxis(step=False).to_json([0, 1]),
            "panels": [
                {
                    "run": path.run,
                    "step": arrays.add(path.step),
                    "components": [arrays.add(values) for values in path.components],
                    "shares": [float(share) for share in path.shares],
                }
                for path in self.paths
            ],
        }


@dataclass(frozen=True, kw_only=True)
class SpaceChart(PathChart):
    """The same in three dimensions."""

    kind = "space"
    noun = "chart: arrow keys turn it"


def _positive_range(tables: list[Array]) -> tuple[float, float]:
    """Return the ends of a logarithmic scale, without the smallest one per cent of the values."""
    values = np.concatenate([table[(table > 0) & np.isfinite(table)] for table in tables])
    if not len(values):
        return 0.1, 1.0
    return float(np.quantile(values, 0.01)), float(values.max())
