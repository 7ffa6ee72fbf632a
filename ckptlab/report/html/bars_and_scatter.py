"""Charts of single values: bars from what they are compared with, and scatters with a line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt

from ckptlab.experiments.results.regression import Fit
from ckptlab.report.html.arrays import Columns
from ckptlab.report.html.charts import Axis, Chart

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """The rows that are shown of one choice.

    Parameters
    ----------
    rows : tuple of str
        Their names, from the top.
    colours : tuple of int
        Of each row, by position in the palette; -1 is ink.
    y, spread, count : ndarray, shape (rows,)
        Means, standard deviations (NaN where there is none), and of how many values.
    single : ndarray, shape (rows, values)
        The values themselves; NaN where there are fewer.
    base : float or None
        Where bars begin; None is zero.
    """

    rows: tuple[str, ...]
    colours: tuple[int, ...]
    y: Array
    spread: Array
    count: Array
    single: Array
    base: float | None = None


@dataclass(frozen=True, kw_only=True)
class BarChart(Chart):
    """Horizontal bars, of which one choice's are shown at a time, on one axis for all.

    Parameters
    ----------
    panels : tuple of (int, Bars)
        With the position among the choices.
    axis : Axis
        Along x.
    ends : (float, float)
        Of the axis.
    base : str
        What bars begin at; empty if that is zero.
    """

    kind = "bars"
    panels: tuple[tuple[int, Bars], ...]
    axis: Axis
    ends: tuple[float, float]
    base: str = ""

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from."""
        return {
            **self.heading(columns),
            "axis": self.axis.specification(self.ends),
            "percent": self.axis.percent,
            "base": self.base,
            "panels": [
                {
                    "level": level,
                    "rows": list(bars.rows),
                    "colours": list(bars.colours),
                    "y": columns.add(bars.y),
                    "spread": columns.add(bars.spread),
                    "count": columns.add(bars.count),
                    "single": columns.add(bars.single),
                    "base": bars.base,
                }
                for level, bars in self.panels
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """The points that are shown of one choice.

    Parameters
    ----------
    names : tuple of str
        Of the points.
    groups : tuple of int
        Which group each is of; -1 is what others are compared with.
    x, y, x_spread, y_spread, count : ndarray, shape (points,)
        Means, standard deviations (NaN where there is none), and of how many values.
    fit : Fit or None
        A line through those of the groups.
    """

    names: tuple[str, ...]
    groups: tuple[int, ...]
    x: Array
    y: Array
    x_spread: Array
    y_spread: Array
    count: Array
    fit: Fit | None = None


@dataclass(frozen=True, kw_only=True)
class ScatterChart(Chart):
    """Points, of which one choice's are shown at a time, on one pair of axes for all.

    Parameters
    ----------
    panels : tuple of (int, Points)
        With the position among the choices.
    groups : tuple of str
        What colours and symbols mean.
    axis : Axis
        Along x.
    x_ends, y_ends : (float, float)
        Of the axes.
    percent : bool
        y is written per cent.
    """

    kind = "scatter"
    has_key = True
    panels: tuple[tuple[int, Points], ...]
    groups: tuple[str, ...]
    axis: Axis
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    percent: bool = False

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from."""
        return {
            **self.heading(columns),
            "axis": self.axis.specification(self.x_ends),
            "yRange": self.y_ends,
            "percent": self.percent,
            "groups": list(self.groups),
            "panels": [
                {
                    "level": level,
                    "names": list(points.names),
                    "groups": list(points.groups),
                    "x": columns.add(points.x),
                    "y": columns.add(points.y),
                    "xSpread": columns.add(points.x_spread),
                    "ySpread": columns.add(points.y_spread),
                    "count": columns.add(points.count),
                    "fit": points.fit and asdict(points.fit),
                }
                for level, points in self.panels
            ],
        }
