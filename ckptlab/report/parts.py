"""Charts: what each kind holds, and what the page's script draws it from.

Imports report.columns. A kind is a dataclass here and an entry of `KINDS` in ``assets/charts.js``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ckptlab.report.columns import Columns

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What runs along x.

    Parameters
    ----------
    name : str
        With units, where it has some.
    step : bool
        It counts optimizer updates: it follows the switch, the cursor and the zoom of the page.
    """

    name: str = "step"
    step: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a chart.

    Parameters
    ----------
    name : str
        In the key.
    x, y : ndarray, shape (points,)
        x increases; NaN in y is a gap.
    run : int
        Position among the page's runs.
    style : int
        Lines of several runs that show the same thing have the same style.
    faint : bool
        It stands back.
    noisy : bool
        Its mean is drawn, and the line itself stands back.
    """

    name: str
    x: Array
    y: Array
    run: int = 0
    style: int = 0
    faint: bool = False
    noisy: bool = False


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
class Chart:
    """What all charts have.

    Parameters
    ----------
    key : str
        Unique on the page; in names of files.
    title : str
        Over the chart.
    unit : str
        What y (or the colour) counts.
    about : str
        What is seen, in a sentence.
    summary : str
        The figures in a sentence, for those who cannot see the chart.
    note : str
        What its table and file lack, if anything.
    """

    kind: ClassVar[str]
    key: str
    title: str
    unit: str
    about: str = ""
    summary: str = ""
    note: str = ""

    @property
    def heading(self) -> dict[str, Any]:
        """What every specification says."""
        return {"kind": self.kind, "key": self.key, "title": self.title, "unit": self.unit}

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from, its numbers put among the columns."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LineChart(Chart):
    """Lines.

    Parameters
    ----------
    lines : tuple of Line
        In order.
    axis : Axis
        Along x.
    log_y, percent : bool
        Logarithmic; written per cent.
    """

    kind = "lines"
    lines: tuple[Line, ...]
    axis: Axis = Axis()
    log_y: bool = False
    percent: bool = False

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from."""
        ends = [float(value) for line in self.lines for value in line.x[[0, -1]]]
        return {
            **self.heading,
            "axis": {
                "name": self.axis.name,
                "step": self.axis.step,
                "range": [min(ends), max(ends)],
            },
            "logY": self.log_y,
            "percent": self.percent,
            "traces": [
                {
                    "name": line.name,
                    "x": columns.add(line.x),
                    "y": columns.add(line.y),
                    "run": line.run,
                    "style": line.style,
                    "faint": line.faint,
                    "noisy": line.noisy,
                }
                for line in self.lines
            ],
        }


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
            **self.heading,
            "axis": {"name": "step", "step": True},
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
            **self.heading,
            "axis": {"name": "step", "step": False},
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
