"""Describe charts to the page's script: what every kind has, and line charts.

Each kind of chart is a dataclass here, in `heatmaps` or in `bars_and_scatter`, and an entry of
`KINDS` in ``assets/charts.js``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from ckptlab.report.html.arrays import EmbeddedArrays

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class XAxis:
    """The x axis of a chart; the name includes units.

    A `step` axis counts optimizer updates and follows the page's log/linear switch, cursor and
    zoom. A `switched` axis follows the log/linear switch only. `ticks` are the labels of a
    logarithmic axis, as many as fit.
    """

    name: str = "step"
    step: bool = True
    switched: bool = False
    percent: bool = False
    backwards: bool = False
    ticks: tuple[float, ...] = ()

    def to_json(self, ends: Sequence[float]) -> dict[str, Any]:
        """Return the axis as JSON; it spans `ends`."""
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
    """A line of a chart: x increases, NaN in y is a gap.

    `run` is the position among the page's runs. Lines that show the same quantity of several runs
    share a `style`. `faint` lines recede; of a `noisy` one the moving mean is drawn strong.
    `single` marks one of the many runs whose mean is drawn. `spread` is the standard deviation of
    y, drawn as a band, and `count` the number of values y is the mean of. `tone` names a colour of
    the theme that replaces the line's own.
    """

    name: str
    x: Array
    y: Array
    run: int = 0
    style: int = 0
    faint: bool = False
    noisy: bool = False
    single: bool = False
    spread: Array | None = None
    count: Array | None = None
    tone: str = ""

    def to_json(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return the line as JSON."""
        return {
            "name": self.name,
            "x": arrays.add(self.x),
            "y": arrays.add(self.y),
            "run": self.run,
            "style": self.style,
            "faint": self.faint,
            "noisy": self.noisy,
            "single": self.single,
            "spread": None if self.spread is None else arrays.add(self.spread),
            "count": None if self.count is None else arrays.add(self.count),
            "tone": self.tone,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TableColumn:
    """A column of a chart's table; `percent` affects the page only, never the CSV file."""

    name: str
    values: Array
    percent: bool = False

    def to_json(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return the column as JSON, text as text."""
        if self.values.dtype.kind in "OUT":
            held: dict[str, Any] = {"texts": list(map(str, self.values))}
        else:
            held = {"values": arrays.add(self.values)}
        return {"name": self.name, "percent": self.percent, **held}


@dataclass(frozen=True, kw_only=True)
class Chart(ABC):
    """What every kind of chart has.

    `key` is unique on the page and part of file names. `unit` is that of y, or of the colour.
    `about` is the caption; `summary` tells the numbers to readers who cannot see the chart; `note`
    says what the chart or its table leaves out. If `in_legend`, the page's legend names its lines.
    Without a `table`, the table and the CSV file hold what is drawn.
    """

    kind: ClassVar[str]
    has_key: ClassVar[bool] = False
    noun: ClassVar[str] = "chart"
    key: str
    title: str
    unit: str
    about: str = ""
    summary: str = ""
    note: str = ""
    in_legend: bool = True
    table: tuple[TableColumn, ...] = ()
    tall: bool = False

    @property
    def reads_steps(self) -> bool:
        """Whether the arrow keys move the page's step on this chart."""
        return False

    @property
    def label(self) -> str:
        """What a screen reader calls the drawing."""
        return f"{self.title}, {self.noun}"

    def to_json(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return the chart as JSON; its numbers go to `arrays`."""
        return {
            "kind": self.kind,
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "inLegend": self.in_legend,
            "table": [column.to_json(arrays) for column in self.table],
            "tall": self.tall,
            **self.drawing(arrays),
        }

    @abstractmethod
    def drawing(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return what this kind of chart adds to the JSON."""


@dataclass(frozen=True, kw_only=True)
class LineChart(Chart):
    """Lines, and `marks`: fine horizontal lines at some y, each with a label."""

    kind = "lines"
    has_key = True
    lines: tuple[Line, ...]
    axis: XAxis = XAxis()
    log_y: bool = False
    percent: bool = False
    marks: tuple[tuple[float, str], ...] = ()

    @property
    def reads_steps(self) -> bool:
        """Whether the arrow keys move the page's step on this chart."""
        return self.axis.step

    @property
    def label(self) -> str:
        """What a screen reader calls the drawing."""
        return f"{self.title}: arrow keys move the step" if self.reads_steps else super().label

    def drawing(self, arrays: EmbeddedArrays) -> dict[str, Any]:
        """Return axis, scale, marks and lines."""
        ends = [float(value) for line in self.lines for value in line.x[[0, -1]]]
        return {
            "axis": self.axis.to_json(ends),
            "logY": self.log_y,
            "percent": self.percent,
            "marks": [{"y": y, "text": text} for y, text in self.marks],
            "traces": [line.to_json(arrays) for line in self.lines],
        }
