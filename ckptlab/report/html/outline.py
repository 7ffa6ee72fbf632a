"""What a page consists of: sections of charts and text.

What a page is about is somebody else's: see `report.overview` and
`report.studies`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptlab.report.html.charts import Chart
from ckptlab.report.html.markup import NOTHING, Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a reader chooses, for all sections that offer it at once.

    Parameters
    ----------
    name : str
        By which the panels of charts are numbered: ``run`` or ``level``.
    legend : str
        Before the options.
    options : tuple of str
        In order; the first is chosen at the beginning.
    """

    name: str
    legend: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a page under one heading.

    Parameters
    ----------
    key : str
        In its address.
    title : str
        The heading.
    text : str
        Under it.
    charts : tuple of Chart
        In order.
    arranged : str
        ``half`` of the width for each, ``thirds``, or the ``whole``.
    markup, closing : Markup
        Before and behind the charts.
    choice : Choice or None
        Its charts show one of several at a time.
    """

    key: str
    title: str
    text: str = ""
    charts: tuple[Chart, ...] = ()
    arranged: str = "half"
    markup: Markup = NOTHING
    closing: Markup = NOTHING
    choice: Choice | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All of it.

    Parameters
    ----------
    title : str
        The first heading.
    kicker, lede : str
        Above and below it.
    runs : tuple of str
        Names in the legend: of runs, or of what a study compares.
    head : Markup
        Below the lede.
    sections : tuple of Section
        In order.
    notices : tuple of str
        What the reader must know first.
    notes : tuple of Markup
        At the foot.
    steps : (int, int) or None
        First and last on the step axis; None if there is no such axis.
    marks : tuple of int
        Steps with a fine line through the charts.
    legend, switch : str
        Names of the legend, and of the axis that is logarithmic or linear; no switch if empty.
    ordered : bool
        What the legend names is in order, and so are its colours.
    file : str
        What files saved from the page begin with; the runs by default.
    """

    title: str
    kicker: str
    lede: str
    runs: tuple[str, ...]
    sections: tuple[Section, ...]
    steps: tuple[int, int] | None = None
    head: Markup = NOTHING
    notices: tuple[str, ...] = ()
    notes: tuple[Markup, ...] = ()
    marks: tuple[int, ...] = ()
    legend: str = "Runs"
    switch: str = "Step axis"
    ordered: bool = False
    file: str = ""
