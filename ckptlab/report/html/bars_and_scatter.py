"""Charts of single values: bars from a baseline, and scatter plots with a fitted line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt

from ckptlab.experiments.results.regression import Fit
from ckptlab.report.html.arrays import EmbeddedArrays
from ckptlab.report.html.charts import Chart, XAxis

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """The bars of one choice: means `y`, standard deviations `spread`, numbers of values `count`.

    `single`, shape (rows, values), holds the values themselves, NaN where there are fewer.
    `colours` are positions in the palette; -1 is ink. Bars begin at `base`, or at zero.
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
    """Horizontal bars; each panel has its position among the choices. `base` names the baseline."""

    kind = "bars"
    panels: tuple[tuple[int, Bars], ...]
    axis: XAxis
    ends: tuple[float, float]
    base: str = ""

    def drawing(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return a panel for each choice, on one axis."""
        return {
            "axis": self.axis.to_json(self.ends),
            "percent": self.axis.percent,
            "base": self.base,
            "panels": [
                {
                    "level": level,
                    "rows": list(bars.rows),
                    "colours": list(bars.colours),
                    "y": arrays.add(bars.y),
                    "spread": arrays.add(bars.spread),
                    "count": arrays.add(bars.count),
                    "single": arrays.add(bars.single),
                    "base": bars.base,
                }
                for level, bars in self.panels
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """The points of one choice: means, standard deviations, and numbers of values.

    `groups` are positions among the chart's groups; -1 is the baseline. `fit` is a line through
    the points of all groups.
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
    """A scatter plot; each panel has its position among the choices."""

    kind = "scatter"
    has_key = True
    panels: tuple[tuple[int, Points], ...]
    groups: tuple[str, ...]
    axis: XAxis
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    percent: bool = False

    def drawing(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return a panel for each choice, on one pair of axes."""
        return {
            "axis": self.axis.to_json(self.x_ends),
            "yRange": self.y_ends,
            "percent": self.percent,
            "groups": list(self.groups),
            "panels": [
                {
                    "level": level,
                    "names": list(points.names),
                    "groups": list(points.groups),
                    "x": arrays.add(points.x),
                    "y": arrays.add(points.y),
                    "xSpread": arrays.add(points.x_spread),
                    "ySpread": arrays.add(points.y_spread),
                    "count": arrays.add(points.count),
                    "fit": points.fit and asdict(points.fit),
                }
                for level, points in self.panels
            ],
        }
