"""Sections of studies whose results are curves: pruning, pre-training, connectivity, deficits.

The legend of the page tells
apart what `legend` names; other lines of a chart differ in their dashes, or have no legend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckptlab.experiments.plans.imp import PRUNING
from ckptlab.report.html.charts import Axis, Line, LineChart
from ckptlab.report.html.numbers import described, number, readable_unit
from ckptlab.report.html.outline import Section
from ckptlab.report.studies.results import MEANS, SHARES, At, Cells, updates

STABLE = 0.02
"""Instability below which children count as connected (Frankle, Dziugaite, Roy & Carbin 2020)."""


def pruning_sections(cells: Cells) -> list[Section]:
    """Draw accuracy and loss against density by rewind point.

    Parameters
    ----------
    cells : Cells
        Of a study of the kind ``imp``.

    Returns
    -------
    list of Section
        The paper's figure 1, and the same of the loss.
    """
    ways, rewinds = cells.values("pruning"), cells.values("rewind")
    told = "; ".join(f"{way}: {PRUNING[way]}" for way in ways if way in PRUNING)
    charts = []
    for name in ("accuracy", "loss"):
        lines = [
            cells.line(
                name,
                "level",
                {"rewind": rewind, "pruning": way},
                name=str(way) if len(ways) > 1 else "",
                run=run,
                style=style,
            )
            for run, rewind in enumerate(rewinds)
            for style, way in enumerate(ways)
        ]
        at = {"rewind": rewinds[0], "pruning": ways[0], "level": 0}
        charts.append(
            _chart(
                cells,
                name,
                lines,
                key=name,
                title=name.capitalize(),
                about="On the test set, at the end of training.",
                axis=cells.density_axis(),
                tall=True,
                marks=_mark("dense", name, cells.mean(name, at)) if 0 in cells.density else (),
            )
        )
    text = f"Rewound to a step, then trained to the end; {told}. {MEANS}"
    return _section("density", "Accuracy and loss against density", charts, text, arranged="whole")


def pretraining_sections(cells: Cells) -> list[Section]:
    """Draw what follows pre-training: against density for each proxy, and against its length.

    Parameters
    ----------
    cells : Cells
        Of a study of the kind ``pretrain``.

    Returns
    -------
    list of Section
        The paper's figures 9 and 10.
    """
    tasks, lengths, levels = (cells.values(dim) for dim in ("task", "length", "level"))
    by_density = [
        _chart(
            cells,
            "accuracy",
            [
                cells.line("accuracy", "level", {"task": task, "length": length}, run=run)
                for run, length in enumerate(lengths)
            ],
            key=f"density-{k}",
            title=str(task),
            axis=cells.density_axis(),
            at={"task": task},
        )
        for k, task in enumerate(tasks)
    ]
    shown = [*dict.fromkeys((levels[0], levels[len(levels) // 2], levels[-1]))]
    by_length = [
        _chart(
            cells,
            "accuracy",
            [
                cells.line("accuracy", "length", {"task": task, "level": level}, name=str(task))
                for task in tasks
            ],
            key=f"length-{level}",
            title=f"{cells.level_name(level)} of the weights kept",
            axis=updates("length of pre-training"),
            at={"level": level},
            in_legend=False,
        )
        for level in shown
    ]
    return [
        *_section(
            "density",
            "Accuracy against density",
            by_density,
            f"One chart for each task of pre-training, each line another length of it. {MEANS}",
        ),
        *_section(
            "length",
            "Accuracy against the length of pre-training",
            by_length,
            f"One chart for some densities, each line another task of pre-training. {MEANS}",
        ),
    ]


def connectivity_sections(cells: Cells) -> list[Section]:
    """Draw the instability of children, and error and loss on the line between them.

    Parameters
    ----------
    cells : Cells
        Of a study of the kind ``connect``.

    Returns
    -------
    list of Section
        What Frankle, Dziugaite, Roy & Carbin (2020) draw.
    """
    levels, rewinds = cells.values("level"), cells.values("rewind")
    rises = [
        _chart(
            cells,
            name,
            [
                cells.line(name, "rewind", {"level": level}, name=_kept(cells, level))
                for level in levels
            ],
            key=name.replace("_", "-"),
            title=title,
            about=about,
            axis=updates("step at which the children part"),
            in_legend=False,
            marks=marks,
        )
        for name, title, about, marks in (
            (
                "instability",
                "Instability",
                "The highest error on the line between two children, less the mean of its ends.",
                ((STABLE, f"stable below {number(STABLE, percent=True)}"),),
            ),
            ("loss_barrier", "Loss barrier", "The same of the loss.", ()),
        )
    ]
    paths = [
        _chart(
            cells,
            name,
            [
                cells.line(name, "alpha", {"level": level, "rewind": rewind}, run=run)
                for run, rewind in enumerate(rewinds)
            ],
            key=f"{name}-{0 if level is None else level}",
            title=f"{title}{f', {_kept(cells, level)}' if len(levels) > 1 else ''}",
            about="At α of the way from one child to the other, on the test set.",
            axis=Axis(name="α, the share of one child [no unit]", step=False),
            at={"level": level},
        )
        for level in levels
        for name, title in (("error", "Error"), ("loss", "Loss"))
    ]
    return [
        *_section("stability", "Whether children stay connected", rises, MEANS),
        *_section("lines", "On the line between two children", paths, MEANS),
    ]


def deficit_sections(cells: Cells) -> list[Section]:
    """Draw accuracy and loss against where a deficit in the data ends, or begins.

    Parameters
    ----------
    cells : Cells
        Of a study of the kind ``critical``.

    Returns
    -------
    list of Section
        What Achille, Rovere & Soatto (2019) draw: of one onset against the duration, of windows
        against the onset.
    """
    onsets, durations = cells.values("onset"), cells.values("duration")
    slides = len(durations) < len(onsets)
    along, by, told = ("onset", "duration", "lasting") if slides else ("duration", "onset", "from")
    axis = updates("first step with the deficit" if slides else "steps with the deficit")
    values = durations if slides else onsets
    charts = []
    for name in ("accuracy", "loss"):
        none = cells.mean(name, {"onset": onsets[0], "duration": 0}) if 0 in durations else math.nan
        lines = [
            cells.line(name, along, {by: value}, name=f"{told} {value}" if len(values) > 1 else "")
            for value in values
        ]
        charts.append(
            _chart(
                cells,
                name,
                lines,
                key=name,
                title=name.capitalize(),
                axis=axis,
                about="On the test set, at the end of training.",
                in_legend=False,
                marks=_mark("no deficit", name, none),
            )
        )
    return _section("deficit", "After a deficit in the data", charts, MEANS)


def legend_of(cells: Cells) -> tuple[str, tuple[str, ...]]:
    """Say what the legend of the page tells apart.

    Parameters
    ----------
    cells : Cells
        Of a study.

    Returns
    -------
    (str, tuple of str)
        Its name, and its entries in order; without any where charts have keys of their own.
    """
    kind = cells.results.attrs["kind"]
    if kind == "imp":
        return "Rewound to", tuple(f"step {rewind}" for rewind in cells.values("rewind"))
    if kind == "connect":
        return "Children of", tuple(f"step {rewind}" for rewind in cells.values("rewind"))
    if kind == "pretrain":
        lengths = cells.values("length")
        return "Pre-trained for", tuple(f"{n} steps" if n else "no step" for n in lengths)
    return "", ()


def _mark(text: str, name: str, value: float) -> tuple[tuple[float, str], ...]:
    """Draw a fine line at a value, if it is known."""
    if not math.isfinite(value):
        return ()
    return ((value, f"{text}: {number(value, name in SHARES)}"),)


def _kept(cells: Cells, level: int | None) -> str:
    if level is None:
        return ""
    return "dense" if level == 0 else f"{cells.level_name(level)} of the weights kept"


def _section(
    key: str, title: str, charts: Iterable[LineChart | None], text: str, arranged: str = "half"
) -> list[Section]:
    drawn = tuple(chart for chart in charts if chart is not None)
    if not drawn:
        return []
    return [Section(key=key, title=title, text=text, charts=drawn, arranged=arranged)]


def _chart(
    cells: Cells,
    name: str,
    lines: Sequence[Line | None],
    *,
    at: At | None = None,
    **look: Any,
) -> LineChart | None:
    """Make a chart of those lines that there are, and the table of all their cells."""
    drawn = tuple(line for line in lines if line is not None)
    if not drawn:
        return None
    attrs: Mapping[str, Any] = cells.results[name].attrs
    percent = name in SHARES
    unit = "per cent" if percent else readable_unit(str(attrs.get("units", "1")))
    return LineChart(
        unit=unit,
        percent=percent,
        lines=drawn,
        summary=described(drawn, percent),
        note=cells.missing(name, at or {}),
        table=cells.table(name, at or {}),
        **look,
    )
