"""Charts: what all kinds have, and lines; what the page's script draws them from.

A kind is a dataclass here, in `report.maps` or in `report.points`, and an
entry of `KINDS` in ``assets/charts.js``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from ckptlab.report.html.arrays import Columns

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
    switched : bool
        It follows the switch, whatever it is.
    percent : bool
        Shares, written per cent.
    backwards : bool
        Falls from left to right.
    ticks : tuple of float
        Where it is labelled on a logarithmic scale, as far as there is room.
    """

    name: str = "step"
    step: bool = True
    switched: bool = False
    percent: bool = False
    backwards: bool = False
    ticks: tuple[float, ...] = ()

    def specification(self, ends: Sequence[float]) -> dict[str, Any]:
        """Return what the page's script draws it from.

        Parameters
        ----------
        ends : sequence of float
            What must lie on it.

        Returns
        -------
        dict
            JSON.
        """
        return {
            "name": self.name,
            "step": self.step,
            "switched": self.switched or self.step,
            "percent": self.percent,
            "backwards": self.backwards,
            "ticks": list(self.ticks),
            "range": [min(ends), max(ends)],
        }


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
    spread : ndarray, shape (points,), or None
        Standard deviation of y, drawn as a band; NaN where there is none.
    count : ndarray of int, shape (points,), or None
        Of how many values y is the mean.
    tone : str
        A colour of the theme, such as ``ink``, for what others are compared with.
    """

    name: str
    x: Array
    y: Array
    run: int = 0
    style: int = 0
    faint: bool = False
    noisy: bool = False
    spread: Array | None = None
    count: Array | None = None
    tone: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name : str
        Its head.
    values : ndarray
        Numbers or text.
    percent : bool
        Shares, written per cent in the table, and as they are in the file.
    """

    name: str
    values: Array
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart(ABC):
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
        What it, or its table and file, lacks, if anything.
    in_legend : bool
        What it draws are entries of the page's legend.
    table : tuple of Column
        Of its table and file; without any they hold what is drawn.
    tall : bool
        It is worth more room.
    """

    kind: ClassVar[str]
    has_key: ClassVar[bool] = False
    key: str
    title: str
    unit: str
    about: str = ""
    summary: str = ""
    note: str = ""
    in_legend: bool = True
    table: tuple[Column, ...] = ()
    tall: bool = False

    def heading(self, columns: Columns) -> dict[str, Any]:
        """Return what every specification says."""
        table = [
            {
                "name": column.name,
                "percent": column.percent,
                **(
                    {"texts": list(map(str, column.values))}
                    if column.values.dtype.kind in "OUT"
                    else {"values": columns.add(column.values)}
                ),
            }
            for column in self.table
        ]
        return {
            "kind": self.kind,
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "inLegend": self.in_legend,
            "table": table,
            "tall": self.tall,
        }

    @abstractmethod
    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from, its numbers put among the columns."""


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
    y_range : (float, float) or None
        Ends of the y axis; None fits the lines.
    marks : tuple of (float, str)
        Fine lines across at some y, and what they are.
    """

    kind = "lines"
    has_key = True
    lines: tuple[Line, ...]
    axis: Axis = Axis()
    log_y: bool = False
    percent: bool = False
    y_range: tuple[float, float] | None = None
    marks: tuple[tuple[float, str], ...] = ()

    def specification(self, columns: Columns) -> dict[str, Any]:
        """Return what the page's script draws it from."""
        ends = [float(value) for line in self.lines for value in line.x[[0, -1]]]
        return {
            **self.heading(columns),
            "axis": self.axis.specification(ends),
            "logY": self.log_y,
            "percent": self.percent,
            "yRange": self.y_range,
            "marks": [{"y": y, "text": text} for y, text in self.marks],
            "traces": [
                {
                    "name": line.name,
                    "x": columns.add(line.x),
                    "y": columns.add(line.y),
                    "run": line.run,
                    "style": line.style,
                    "faint": line.faint,
                    "noisy": line.noisy,
                    "spread": None if line.spread is None else columns.add(line.spread),
                    "count": None if line.count is None else columns.add(line.count),
                    "tone": line.tone,
                }
                for line in self.lines
            ],
        }
