"""The outline of a page: sections of text, tables and charts, which the templates turn into HTML.

Everything in it is plain text; `runs.page` and `studies.page` fill it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ckptlab.report.html.charts import Chart

Groups = Mapping[str, Mapping[str, str]]
"""Facts by heading and name."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Key figures in large type: names and values."""

    kind: ClassVar[str] = "tiles"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Lists of facts under headings, side by side where they fit."""

    kind: ClassVar[str] = "facts"
    groups: Groups
    title: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A value in a table; `run` gives it that run's colour, `verdict` is a CSS class."""

    text: str
    run: int | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A column's heading; `run` and `phase` give it a colour."""

    text: str
    note: str = ""
    run: int | None = None
    phase: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of a table, each cell with one value or several."""

    name: str
    cells: tuple[tuple[Value, ...], ...]
    finding: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table that scrolls sideways on narrow screens; `style` is ``phases`` or ``compare``."""

    kind: ClassVar[str] = "table"
    style: str
    label: str
    corner: str
    heads: tuple[Heading, ...]
    rows: tuple[Row, ...]


Content = Tiles | Facts | Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A choice that all sections offering it share; `name` is ``run`` or ``level``.

    Panels of charts are numbered by the position among the options; the first is shown first.
    """

    name: str
    legend: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a page under one heading; `key` is its anchor.

    `arranged` gives each chart ``half`` the width, ``thirds`` or the ``whole``; with a `choice`
    the charts show one panel at a time.
    """

    key: str
    title: str
    text: str = ""
    content: tuple[Content, ...] = ()
    charts: tuple[Chart, ...] = ()
    arranged: str = "half"
    choice: Choice | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A whole page.

    `runs` are the entries of the legend: runs, or what a study compares. If `averaged`, they are
    too many for one colour each: lines show their means, and no legend is drawn. If `ordered`,
    their colours follow an ordered scale. `steps` are the ends of the step axis, if there is one;
    `marks` are steps with a fine line through the charts; `switch` names the axis that is
    logarithmic or linear, if any; file names begin with `file`, or with the runs.
    """

    title: str
    kicker: str
    lede: str
    runs: tuple[str, ...]
    sections: tuple[Section, ...]
    steps: tuple[int, int] | None = None
    head: tuple[Content, ...] = ()
    notices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    marks: tuple[int, ...] = ()
    legend: str = "Runs"
    switch: str = "Step axis"
    averaged: bool = False
    ordered: bool = False
    file: str = ""
