"""Draw studies of recordings: what metrics measured, as means over replicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ckptlab.analyze.registry.metrics import METRICS, Metric
from ckptlab.analyze.weights.timeline import LONG_NAMES
from ckptlab.report import downsample
from ckptlab.report.choices import choices_of
from ckptlab.report.html.charts import Line, LineChart, XAxis
from ckptlab.report.html.numbers import describe_lines, format_spread, format_unit
from ckptlab.report.html.outline import Section, Value
from ckptlab.report.phases import EVIDENCE, SHARES, Cell, count_verdicts, phase_table
from ckptlab.report.plot_data import STEP_DIMS, Curve, PanelData, panels_of
from ckptlab.report.runs.run_charts import KEPT, LINE_STEPS
from ckptlab.report.studies.study_results import MEANS, StudyResults


def recorded_sections(study: StudyResults) -> list[Section]:
    """Draw every metric of a study of recordings (the paper's figures 2 and 3)."""
    sections = []
    for name, variables in _belonging(study.results).items():
        metric = METRICS[name]
        if name == "timeline":
            sections.append(_timeline(study, variables))
            continue
        charts = tuple(_charts(study, metric, variables))
        if charts:
            title = name.replace("-", " ").capitalize()
            choices = choices_of([study.results[list(variables.values())]])
            text = " ".join(filter(None, (metric.summary, MEANS, choices)))
            sections.append(Section(key=name, title=title, text=text, charts=charts))
    return sections


def steps_of(study: StudyResults) -> tuple[int, int] | None:
    """Return the first and last step of all measurements over steps, if there are any."""
    found = [study.results[dim].values for dim in STEP_DIMS if dim in study.results.dims]
    known = [values for values in found if len(values)]
    if not known:
        return None
    return int(min(values.min() for values in known)), int(max(values.max() for values in known))


def _belonging(results: xr.Dataset) -> dict[str, dict[str, str]]:
    """Return the variables of each metric, by the names that the metric gives them."""
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
        # If two metrics share a variable's name, the later one's has the metric's name before it.
        chosen = {n: v for n in wanted for v in (f"{mine}_{n}", n) if v in left}
        found[metric.name] = {n: v for n, v in chosen.items() if results[v].notnull().any()}
        left -= set(chosen.values())
    for metric in metrics:
        if not metric.plot.panels and metric.name != "timeline":
            rest = {name: name for name in sorted(left) if results[name].notnull().any()}
            found[metric.name] |= rest
            break
    return {name: variables for name, variables in found.items() if variables}


def _charts(study: StudyResults, metric: Metric, variables: Mapping[str, str]) -> list[LineChart]:
    means, spreads, counts = {}, {}, {}
    for name, variable in variables.items():
        reduced = study.reduced(variable)
        known = reduced["mean"].notnull()
        means[name] = reduced["mean"]
        # NaN exactly where the mean is, so that all three drop the same points.
        spreads[name] = reduced["std"].fillna(0).where(known).assign_attrs(reduced["mean"].attrs)
        counts[name] = reduced["count"].where(known).assign_attrs(reduced["mean"].attrs)
    parts = [panels_of(xr.Dataset(part), metric) for part in (means, spreads, counts)]
    drawn = []
    for mean, spread, count in zip(*parts, strict=True):
        lines = tuple(_lines(mean, spread, count))
        if not lines or (mean.panel.if_varied and all(_is_level(line.y) for line in lines)):
            continue
        drawn.append(_chart(metric, mean, lines))
    return drawn


def _lines(means: PanelData, spreads: PanelData, counts: PanelData) -> list[Line]:
    lines = []
    for style, (mean, spread, count) in enumerate(
        zip(means.curves, spreads.curves, counts.curves, strict=True)
    ):
        kept = _kept(mean, means.over_steps)
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


def _kept(curve: Curve, over_steps: bool) -> Any:
    if len(curve.x) <= LINE_STEPS or not over_steps:
        return slice(None)
    return downsample.extremes(np.asarray(curve.y, float), downsample.bin_starts(curve.x, KEPT))


def _chart(metric: Metric, data: PanelData, lines: tuple[Line, ...]) -> LineChart:
    panel = data.panel
    longest = max(len(curve.x) for curve in data.curves)
    shortened = longest > max(len(line.x) for line in lines)
    return LineChart(
        key=f"{metric.name}-{panel.variables[0]}".replace("_", "-"),
        title=panel.title,
        unit=format_unit(data.units, panel.percent),
        about=panel.about,
        summary=describe_lines(lines, panel.percent),
        note=f"Lowest and highest means of bins of the {longest:,} steps; every step is in the "
        "results."
        if shortened
        else "",
        lines=lines,
        axis=XAxis(name=data.x_name, step=data.over_steps),
        log_y=panel.log_y,
        percent=panel.percent,
    )


def _timeline(study: StudyResults, variables: Mapping[str, str]) -> Section:
    """Lay out the phases, with means over replicates as evidence."""
    reduced = {name: study.reduced(variable) for name, variable in variables.items()}

    def cell(phase: str, name: str) -> Cell:
        if name == "agrees":
            verdicts = np.ravel(study.results["agrees"].sel(phase=phase).values).tolist()
            return (count_verdicts([str(text) for text in verdicts]),)
        part = reduced[name].sel(phase=phase)
        return (Value(format_spread(float(part["mean"]), float(part["std"]), name in SHARES)),)

    known = [n for n in EVIDENCE if n in reduced or (n == "agrees" and n in study.results)]
    phases = {str(phase): "" for phase in study.results["phase"].values}
    return Section(
        key="timeline",
        title="The phases",
        text="The paper's timeline for ResNet-20 on CIFAR-10 at batch 128, and what these "
        "recordings show over the same steps: means over replicates ± the standard deviation of "
        "the sample (n − 1).",
        content=(phase_table(phases, cell, known),),
    )
