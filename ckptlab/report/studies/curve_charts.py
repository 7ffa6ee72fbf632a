"""Draw studies whose results are curves: pruning, pre-training, connectivity, and deficits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ckptlab.experiments.operations.criteria import PRUNING
from ckptlab.report.html.charts import Line, LineChart, XAxis
from ckptlab.report.html.numbers import describe_lines, format_number, format_unit
from ckptlab.report.html.outline import Section
from ckptlab.report.studies.study_results import MEANS, SHARES, At, StudyResults, updates_axis

STABLE = 0.02
"""Instability below which children count as linearly connected (arXiv:1912.05671)."""


def pruning_sections(study: StudyResults) -> list[Section]:
    """Draw accuracy and loss against density, a line a rewind point (the paper's figure 1)."""
    ways, rewinds = study.values("pruning"), study.values("rewind")
    told = "; ".join(f"{way}: {PRUNING[way].summary}" for way in ways if way in PRUNING)
    charts = []
    for name in ("accuracy", "loss"):
        lines = [
            study.line(
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
                study,
                name,
                lines,
                key=name,
                title=name.capitalize(),
                about="On the test set, at the end of training.",
                axis=study.density_axis(),
                tall=True,
                marks=_mark("dense", name, study.mean(name, at)) if 0 in study.density else (),
            )
        )
    text = f"Rewound to a step, then trained to the end; {told}. {MEANS}"
    return _section("density", "Accuracy and loss against density", charts, text, arranged="whole")


def pretraining_sections(study: StudyResults) -> list[Section]:
    """Draw accuracy after pre-training against density and against length (figures 9 and 10)."""
    tasks, lengths, levels = (study.values(dim) for dim in ("task", "length", "level"))
    by_density = [
        _chart(
            study,
            "accuracy",
            [
                study.line("accuracy", "level", {"task": task, "length": length}, run=run)
                for run, length in enumerate(lengths)
            ],
            key=f"density-{k}",
            title=str(task),
            axis=study.density_axis(),
            at={"task": task},
        )
        for k, task in enumerate(tasks)
    ]
    shown = [*dict.fromkeys((levels[0], levels[len(levels) // 2], levels[-1]))]
    by_length = [
        _chart(
            study,
            "accuracy",
            [
                study.line("accuracy", "length", {"task": task, "level": level}, name=str(task))
                for task in tasks
            ],
            key=f"length-{level}",
            title=f"{study.level_name(level)} of the weights kept",
            axis=updates_axis("length of pre-training"),
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


def connectivity_sections(study: StudyResults) -> list[Section]:
    """Draw the instability of children, and error and loss on the line between them."""
    levels, rewinds = study.values("level"), study.values("rewind")
    rises = [
        _chart(
            study,
            name,
            [
                study.line(name, "rewind", {"level": level}, name=_kept(study, level))
                for level in levels
            ],
            key=name.replace("_", "-"),
            title=title,
            about=about,
            axis=updates_axis("step at which the children part"),
            in_legend=False,
            marks=marks,
        )
        for name, title, about, marks in (
            (
                "instability",
                "Instability",
                "The highest error on the line between two children, less the mean of its ends.",
                ((STABLE, f"stable below {format_number(STABLE, percent=True)}"),),
            ),
            ("loss_barrier", "Loss barrier", "The same of the loss.", ()),
        )
    ]
    paths = [
        _chart(
            study,
            name,
            [
                study.line(name, "alpha", {"level": level, "rewind": rewind}, run=run)
                for run, rewind in enumerate(rewinds)
            ],
            key=f"{name}-{0 if level is None else level}",
            title=f"{title}{f', {_kept(study, level)}' if len(levels) > 1 else ''}",
            about="At α of the way from one child to the other, on the test set.",
            axis=XAxis(name="α, the share of one child [no unit]", step=False),
            at={"level": level},
        )
        for level in levels
        for name, title in (("error", "Error"), ("loss", "Loss"))
    ]
    return [
        *_section("stability", "Whether children stay connected", rises, MEANS),
        *_section("lines", "On the line between two children", paths, MEANS),
    ]


def deficit_sections(study: StudyResults) -> list[Section]:
    """Draw accuracy and loss after a deficit (Achille, Rovere & Soatto 2019).

    A study with one onset is drawn against the duration, one that slides a window against the
    onset.
    """
    onsets, durations = study.values("onset"), study.values("duration")
    slides = len(durations) < len(onsets)
    along, by, told = ("onset", "duration", "lasting") if slides else ("duration", "onset", "from")
    axis = updates_axis("first step with the deficit" if slides else "steps with the deficit")
    values = durations if slides else onsets
    charts = []
    for name in ("accuracy", "loss"):
        none = study.mean(name, {"onset": onsets[0], "duration": 0}) if 0 in durations else math.nan
        lines = [
            study.line(name, along, {by: value}, name=f"{told} {value}" if len(values) > 1 else "")
            for value in values
        ]
        charts.append(
            _chart(
                study,
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


def legend_of(study: StudyResults) -> tuple[str, tuple[str, ...]]:
    """Return the name and the entries of the page's legend, if it has one."""
    kind = study.results.attrs["kind"]
    if kind == "imp":
        return "Rewound to", tuple(f"step {rewind}" for rewind in study.values("rewind"))
    if kind == "connect":
        return "Children of", tuple(f"step {rewind}" for rewind in study.values("rewind"))
    if kind == "pretrain":
        lengths = study.values("length")
        return "Pre-trained for", tuple(f"{n} steps" if n else "no step" for n in lengths)
    return "", ()


def _mark(text: str, name: str, value: float) -> tuple[tuple[float, str], ...]:
    """Mark a value with a fine line, if it is known."""
    if not math.isfinite(value):
        return ()
    return ((value, f"{text}: {format_number(value, name in SHARES)}"),)


def _kept(study: StudyResults, level: int | None) -> str:
    if level is None:
        return ""
    return "dense" if level == 0 else f"{study.level_name(level)} of the weights kept"


def _section(
    key: str, title: str, charts: Iterable[LineChart | None], text: str, arranged: str = "half"
) -> list[Section]:
    drawn = tuple(chart for chart in charts if chart is not None)
    if not drawn:
        return []
    return [Section(key=key, title=title, text=text, charts=drawn, arranged=arranged)]


def _chart(
    study: StudyResults,
    name: str,
    lines: Sequence[Line | None],
    *,
    at: At | None = None,
    **look: Any,
) -> LineChart | None:
    """Make a chart of those lines that there are, and the table of all their study."""
    drawn = tuple(line for line in lines if line is not None)
    if not drawn:
        return None
    percent = name in SHARES
    unit = format_unit(str(study.results[name].attrs.get("units", "1")), percent)
    return LineChart(
        unit=unit,
        percent=percent,
        lines=drawn,
        summary=describe_lines(drawn, percent),
        note=study.missing(name, at or {}),
        table=study.table(name, at or {}),
        **look,
    )
