"""Turn the measurements of runs into charts: lines over steps, heat maps of layers, paths.

Up to `MOST_COLOURS` runs have a colour each. Of more, the mean over runs is drawn with its standard
deviation, and the single runs faintly. What a page cannot hold is downsampled, and a note says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.registry.metrics import METRICS, metric_named
from ckptlab.analyze.registry.panels import Panel
from ckptlab.report import downsample
from ckptlab.report.html.charts import Line, LineChart, XAxis
from ckptlab.report.html.heatmaps import ComponentPath, HeatChart, HeatGrid, PathChart, SpaceChart
from ckptlab.report.html.numbers import describe_lines, format_unit
from ckptlab.report.plot_data import Curve, PanelData, panels_of
from ckptlab.report.runs.measure import MeasuredRun
from ckptlab.report.theme import COLOURS

Array = npt.NDArray[Any]
Result = xr.DataArray | xr.Dataset

MOST_COLOURS = len(COLOURS)
"""Number of runs up to which each has its own colour."""

LAYERS: tuple[Panel, ...] = (
    Panel(
        variables=("sign_flips",),
        title="Signs flipped",
        about="Share of each layer's weights that changed sign since the previous recorded step.",
        percent=True,
    ),
    Panel(
        variables=("relative_change",),
        title="Relative change",
        about="‖Δw‖ / ‖w‖ of each layer since the previous recorded step.",
    ),
    Panel(
        variables=("gradient_norm",),
        title="Gradient norm",
        about="L2 norm of each layer's part of the mini-batch gradient.",
    ),
)
"""Heat maps of the layers."""

LINE_STEPS = 6_000
"""Steps of all runs together up to which lines keep every step."""

LAYER_CELLS = 150_000
"""Layers × steps of all runs together up to which heat maps keep every step."""

KEPT = 3_000
"""Number of bins that longer lines and heat maps are cut into, for all runs together."""


def telemetry_charts(runs: Sequence[MeasuredRun]) -> list[LineChart]:
    """Draw the telemetry, a chart for each panel of the registry that has something to show."""
    charts = line_charts("telemetry", [(k, run.survey.network) for k, run in enumerate(runs)])
    if_varied = {p.title for p in METRICS["telemetry"].plot.panels if p.if_varied}
    return [chart for chart in charts if chart.title not in if_varied or _varies(chart.lines)]


def weights_chart(runs: Sequence[MeasuredRun]) -> LineChart:
    """Draw the values of a few single weights."""
    (chart,) = line_charts("trajectories", [(k, run.weights) for k, run in enumerate(runs)])
    count, seed = runs[0].weights.sizes["param"], runs[0].weights.attrs["seed"]
    about = f"Values of {count} weights drawn at random (seed {seed})."
    return replace(chart, title="Single weights", about=about)


def line_charts(
    metric: str, results: Sequence[tuple[int, Result]], *, choices: str = ""
) -> list[LineChart]:
    """Draw a metric: a chart for each panel, with the lines of all runs.

    `results` holds the result of each run that has one, with the position of the run. Captions end
    with `choices`.
    """
    panels: dict[str, list[tuple[int, PanelData]]] = {}
    for run, result in results:
        for data in panels_of(result, metric_named(metric)):
            panels.setdefault(data.panel.title, []).append((run, data))
    charts = (_line_chart(metric, found, choices) for found in panels.values())
    return [chart for chart in charts if chart is not None]


def layer_charts(runs: Sequence[MeasuredRun]) -> list[HeatChart]:
    """Draw heat maps of the layers, without the gradient if no run recorded it."""
    cells = sum(run.survey.layers.sizes["layer"] * run.survey.layers.sizes["step"] for run in runs)
    long = cells > LAYER_CELLS
    charts = []
    for panel in LAYERS:
        (name,) = panel.variables
        held = [
            (k, run.survey.layers[name]) for k, run in enumerate(runs) if name in run.survey.layers
        ]
        if not held:
            continue
        charts.append(
            HeatChart(
                key=f"layers-{name}".replace("_", "-"),
                title=panel.title,
                unit=format_unit(str(held[0][1].attrs["units"]), panel.percent),
                about=panel.about,
                note="Means over bins of steps; every step: ckptlab analyze telemetry RUN --by "
                "layer -o FILE.csv"
                if long
                else "",
                grids=tuple(_grid(k, values, long, len(runs)) for k, values in held),
                percent=panel.percent,
            )
        )
    return charts


def path_charts(runs: Sequence[MeasuredRun]) -> list[PathChart]:
    """Draw the paths through the principal components, in a plane and in space."""
    charts: list[PathChart] = []
    for kind, title, count, about in (
        (PathChart, "In the plane of two components", 2, "Coloured by step."),
        (SpaceChart, "With the third", 3, "Drag to turn it, or use the arrow keys."),
    ):
        paths = tuple(_paths(runs, count))
        if paths:
            key = f"path-{count}"
            charts.append(kind(key=key, title=title, unit="weight", about=about, paths=paths))
    return charts


def _line_chart(metric: str, found: list[tuple[int, PanelData]], choices: str) -> LineChart | None:
    first = found[0][1]
    panel = first.panel
    lines = tuple(_lines(found))
    if not lines:
        return None
    longest = max(len(curve.x) for _, data in found for curve in data.curves)
    shortened = max(len(line.x) for line in lines) < longest
    return LineChart(
        key=f"{metric}-{panel.variables[0]}".replace("_", "-"),
        title=panel.title,
        unit=format_unit(first.units, panel.percent),
        about=" ".join(filter(None, (panel.about, choices))),
        summary=describe_lines([line for line in lines if not line.single], panel.percent),
        note=f"Lowest and highest values of bins of the {longest:,} steps; every step: ckptlab "
        f"analyze {metric} RUN -o FILE.csv"
        if shortened
        else "",
        lines=lines,
        axis=XAxis(name=first.x_name, step=first.over_steps),
        log_y=panel.log_y,
        percent=panel.percent,
    )


@dataclass(frozen=True, slots=True)
class _Series:
    """A curve of one run."""

    run: int
    curve: Curve
    over_steps: bool
    panel: Panel


def _lines(found: list[tuple[int, PanelData]]) -> Iterator[Line]:
    """Yield a line for each curve of each run; of many runs their means first."""
    series = [
        _Series(run, curve, data.over_steps, data.panel)
        for run, data in found
        for curve in data.curves
        if np.isfinite(np.asarray(curve.y, float)).any()
    ]
    by_name: dict[str, list[_Series]] = {}
    for one in series:
        by_name.setdefault(one.curve.name, []).append(one)
    styles = {
        name: k for k, name in enumerate(dict.fromkeys(c.name for _, d in found for c in d.curves))
    }
    averaged = len(found) > MOST_COLOURS
    if averaged:
        for same in by_name.values():
            mean = _mean_line([one.curve for one in same])
            if mean is not None:
                yield _thin(mean, same[0], styles, bins=KEPT)
    total = sum(max(len(curve.x) for curve in data.curves) for _, data in found)
    for one in series:
        line = Line(name="", x=one.curve.x, y=np.asarray(one.curve.y, float), run=one.run)
        bins = max(KEPT // len(found), 2) if total > LINE_STEPS else None
        yield replace(_thin(line, one, styles, bins=bins), single=averaged)


def _thin(line: Line, like: _Series, styles: Mapping[str, int], bins: int | None) -> Line:
    """Give a line the name and look of its curve, and at most the extremes of so many bins."""
    name = like.curve.name
    kept: Any = slice(None)
    if bins is not None and like.over_steps and len(line.x) > 2 * bins:
        kept = downsample.extremes(line.y, downsample.bin_starts(line.x, bins))
    return replace(
        line,
        name=name if len(styles) > 1 else "",
        x=line.x[kept],
        y=line.y[kept],
        spread=None if line.spread is None else line.spread[kept],
        count=None if line.count is None else line.count[kept],
        style=styles[name],
        faint=like.curve.variable in like.panel.faint,
        noisy=like.panel.noisy,
    )


def _mean_line(curves: Sequence[Curve]) -> Line | None:
    """Return mean and sample standard deviation over runs, at the steps that all of them have."""
    x = reduce(np.intersect1d, (curve.x for curve in curves))
    if len(curves) < 2 or not len(x):
        return None
    y = np.stack([np.asarray(c.y, float)[np.searchsorted(c.x, x)] for c in curves])
    y = np.where(np.isfinite(y), y, np.nan)
    with warnings.catch_warnings():
        # The mean of no values and the deviation of one are NaN, as they should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, spread = np.nanmean(y, axis=0), np.nanstd(y, axis=0, ddof=1)
    return Line(name="", x=x, y=mean, spread=spread, count=np.isfinite(y).sum(axis=0))


def _varies(lines: Iterable[Line]) -> bool:
    return any(np.nanmin(line.y) != np.nanmax(line.y) for line in lines)


def _grid(run: int, values: xr.DataArray, long: bool, runs: int) -> HeatGrid:
    steps, z = values["step"].values, values.values
    # The first step has no previous one, and no gradient.
    first = int(np.isfinite(z).any(axis=0).argmax())
    steps, z = steps[first:], z[:, first:]
    end = int(2 * steps[-1] - steps[-2]) if len(steps) > 1 else int(steps[-1]) + 1
    if long:
        starts = downsample.bin_starts(steps, max(KEPT // runs, 2))
        steps, z = steps[starts], downsample.bin_means(z, starts)
    return HeatGrid(run=run, rows=tuple(map(str, values["layer"].values)), x=steps, end=end, z=z)


def _paths(runs: Sequence[MeasuredRun], count: int) -> Iterator[ComponentPath]:
    for k, run in enumerate(runs):
        projection = run.path["projection"].values
        if len(projection) >= count and np.isfinite(projection).all():
            yield ComponentPath(
                run=k,
                step=run.path["step"].values,
                components=projection[:count],
                shares=run.path["explained_variance"].values[:count],
            )
