"""Sections of studies that record: what metrics measured, as means over replicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ckptlab.analyze.registry.metrics import METRICS, Metric
from ckptlab.analyze.weights.timeline import LONG_NAMES, PHASES
from ckptlab.report.curves import STEP_AXES, Axes, Curve, axes_of
from ckptlab.report.html.charts import Axis, Line, LineChart
from ckptlab.report.html.markup import Markup, tag
from ckptlab.report.html.numbers import described, number, unit_text
from ckptlab.report.html.outline import Section
from ckptlab.report.runs import downsample
from ckptlab.report.runs.charts import KEPT, LINE_STEPS
from ckptlab.report.studies.results import MEANS, Cells

SHARES = ("sign_flips", "accuracy")
"""Evidence that is written per cent."""


def recorded_sections(cells: Cells) -> list[Section]:
    """Draw every metric of a study of recordings.

    Parameters
    ----------
    cells : Cells
        Of a study of the kind ``record``.

    Returns
    -------
    list of Section
        One for each metric that has results: the paper's figures 2 and 3.
    """
    sections = []
    for name, variables in _belonging(cells.results).items():
        metric = METRICS[name]
        if name == "timeline":
            sections.append(_timeline(cells, variables))
            continue
        charts = tuple(_charts(cells, metric, variables))
        if charts:
            title = name.replace("-", " ").capitalize()
            text = f"{metric.summary} {MEANS}"
            sections.append(Section(key=name, title=title, text=text, charts=charts))
    return sections


def steps_of(cells: Cells) -> tuple[int, int] | None:
    """Return the first and last step of what was measured over steps; None if nothing was."""
    found = [cells.results[dim].values for dim in STEP_AXES if dim in cells.results.dims]
    known = [values for values in found if len(values)]
    if not known:
        return None
    return int(min(values.min() for values in known)), int(max(values.max() for values in known))


def _belonging(results: xr.Dataset) -> dict[str, dict[str, str]]:
    """Find what each metric measured: its variables, by their names in it."""
    study = results.attrs.get("study")
    named = study.get("metrics", ()) if isinstance(study, Mapping) else ()
    metrics = [METRICS[name] for name in named if name in METRICS]
    left = {str(name) for name, v in results.data_vars.items() if v.dtype.kind in "fiu"}
    found: dict[str, dict[str, str]] = {}
    for metric in metrics:
        mine = metric.name.replace("-", "_")
        panels = [variable for panel in metric.plot.panels for variable in panel.variables]
        evidence = list(LONG_NAMES) if metric.name == "timeline" else []
        wanted = [*panels, *evidence, mine, *metric.needs]
        # Where another metric had taken a name, this one's stands before it.
        chosen = {n: v for n in wanted for v in (f"{mine}_{n}", n) if v in left}
        found[metric.name] = {n: v for n, v in chosen.items() if results[v].notnull().any()}
        left -= set(chosen.values())
    for metric in metrics:
        if not metric.plot.panels and metric.name != "timeline":
            rest = {name: name for name in sorted(left) if results[name].notnull().any()}
            found[metric.name] |= rest
            break
    return {name: variables for name, variables in found.items() if variables}


def _charts(cells: Cells, metric: Metric, variables: Mapping[str, str]) -> list[LineChart]:
    means, spreads, counts = {}, {}, {}
    for name, variable in variables.items():
        reduced = cells.reduced(variable)
        known = reduced["mean"].notnull()
        means[name] = reduced["mean"]
        # Gaps where the mean has some, so that both are the same points.
        spreads[name] = reduced["std"].fillna(0).where(known).assign_attrs(reduced["mean"].attrs)
        counts[name] = reduced["count"].where(known).assign_attrs(reduced["mean"].attrs)
    parts = [axes_of(xr.Dataset(part), metric) for part in (means, spreads, counts)]
    drawn = []
    for mean, spread, count in zip(*parts, strict=True):
        lines = tuple(_lines(mean, spread, count))
        if not lines or (mean.panel.if_varied and all(_is_level(line.y) for line in lines)):
            continue
        drawn.append(_chart(metric, mean, lines))
    return drawn


def _lines(means: Axes, spreads: Axes, counts: Axes) -> list[Line]:
    lines = []
    for style, (mean, spread, count) in enumerate(
        zip(means.curves, spreads.curves, counts.curves, strict=True)
    ):
        kept = _kept(mean, means.axis)
        y = np.asarray(mean.y, float)[kept]
        if not np.isfinite(y).any():
            continue
        replicates = np.nan_to_num(np.asarray(count.y, float)[kept])
        deviation = np.where(replicates > 1, np.asarray(spread.y, float)[kept], np.nan)
        lines.append(
            Line(
                name=mean.name if len(means.curves) > 1 else "",
                x=mean.x[kept],
                y=y,
                style=style,
                faint=mean.variable in means.panel.faint,
                noisy=means.panel.noisy,
                spread=deviation if np.isfinite(deviation).any() else None,
                count=replicates.astype(np.int64),
            )
        )
    return lines


def _is_level(y: Any) -> bool:
    return bool(np.nanmin(y) == np.nanmax(y))


def _kept(curve: Curve, axis: str) -> Any:
    if len(curve.x) <= LINE_STEPS or axis not in STEP_AXES:
        return slice(None)
    return downsample.extremes(np.asarray(curve.y, float), downsample.stretches(curve.x, KEPT))


def _chart(metric: Metric, axes: Axes, lines: tuple[Line, ...]) -> LineChart:
    longest = max(len(curve.x) for curve in axes.curves)
    thinned = longest > max(len(line.x) for line in lines)
    return LineChart(
        key=f"{metric.name}-{axes.panel.variables[0]}".replace("_", "-"),
        title=axes.panel.title,
        unit=unit_text(axes),
        about=axes.panel.about,
        summary=described(lines, axes.panel.percent),
        note=f"Lowest and highest means of stretches of the {longest:,} steps; every step is in "
        "the results."
        if thinned
        else "",
        lines=lines,
        axis=Axis(name=axes.axis_name, step=axes.axis in STEP_AXES),
        log_y=axes.panel.log_y,
        percent=axes.panel.percent,
    )


def _timeline(cells: Cells, variables: Mapping[str, str]) -> Section:
    """Show the phases side by side, the evidence as means over replicates."""
    phases = [str(phase) for phase in cells.results["phase"].values]
    known = {phase.name: phase for phase in PHASES}
    head = tag(
        "tr",
        tag("th", tag("span", "Evidence", class_="unseen"), scope="col"),
        *(
            tag("th", phase.capitalize(), scope="col", data_phase=k)
            for k, phase in enumerate(phases)
        ),
    )
    findings = (tag("td", known[p].finding if p in known else "–") for p in phases)
    rows = [tag("tr", tag("th", "The paper found", scope="row"), *findings, class_="finding")]
    for name, (unit, title) in LONG_NAMES.items():
        if name not in variables or name in ("start", "stop", "gradient_min_step"):
            continue
        reduced = cells.reduced(variables[name])
        texts = [_text(reduced.sel(phase=phase), name in SHARES) for phase in phases]
        if any(text != "–" for text in texts):
            label = title[:1].upper() + title[1:] + ("" if unit == "1" else f" [{unit}]")
            values = (tag("td", text) for text in texts)
            rows.append(tag("tr", tag("th", label, scope="row"), *values))
    if "agrees" in cells.results:
        agreed = (tag("td", _agreed(cells.results, phase)) for phase in phases)
        rows.append(tag("tr", tag("th", "Compared with the paper", scope="row"), *agreed))
    table: Markup = tag("table", tag("thead", head), tag("tbody", *rows), class_="phases")
    return Section(
        key="timeline",
        title="The phases",
        text="The paper's timeline for ResNet-20 on CIFAR-10 at batch 128, and what these "
        "recordings show over the same steps: means over replicates with the standard deviation of "
        "the sample.",
        markup=tag(
            "div", table, class_="scroll", tabindex=0, role="region", aria_label="Phases, table"
        ),
    )


def _agreed(results: xr.Dataset, phase: str) -> str:
    verdicts = np.ravel(results["agrees"].sel(phase=phase).values).tolist()
    known = [verdict for verdict in verdicts if verdict in ("yes", "no")]
    return f"{known.count('yes')} of {len(known)} agree" if known else "not measured"


def _text(reduced: xr.Dataset, percent: bool) -> str:
    mean, std = float(reduced["mean"]), float(reduced["std"])
    text = number(mean, percent)
    return f"{text} ± {number(std, percent)}" if np.isfinite(std) and np.isfinite(mean) else text
