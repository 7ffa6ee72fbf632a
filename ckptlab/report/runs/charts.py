"""From measurements to charts: lines over steps, layers, paths; what does not fit is thinned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.registry.panels import Panel
from ckptlab.report.curves import STEP_AXES, Axes, axes_of
from ckptlab.report.html.charts import Axis, Line, LineChart
from ckptlab.report.html.heatmaps import Grid, HeatChart, Path3, PathChart, SpaceChart
from ckptlab.report.html.numbers import described, readable_unit, unit_text
from ckptlab.report.runs import downsample
from ckptlab.report.runs.measure import Measured

Array = npt.NDArray[Any]

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

LINE_STEPS = 12_500
"""Steps of all runs together up to which lines keep every one."""

LAYER_CELLS = 150_000
"""Layers times steps of all runs together up to which heat maps keep every one."""

KEPT = 3_000
"""Stretches that what is longer is cut into, for all runs together."""


def telemetry_charts(runs: Sequence[Measured]) -> list[LineChart]:
    """Draw the telemetry, one chart for each panel of the registry.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    list of LineChart
        Those that have something to show.
    """
    charts = line_charts("telemetry", [(k, run.survey.network) for k, run in enumerate(runs)])
    return [chart for chart in charts if not _is_dull(chart)]


def weights_chart(runs: Sequence[Measured]) -> LineChart:
    """Draw the values of single weights.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    LineChart
        A line for each.
    """
    (chart,) = line_charts("trajectories", [(k, run.weights) for k, run in enumerate(runs)])
    count, seed = runs[0].weights.sizes["param"], runs[0].weights.attrs["seed"]
    about = f"Values of {count} weights drawn at random (seed {seed})."
    return replace(chart, title="Single weights", about=about)


def line_charts(
    metric: str, results: Sequence[tuple[int, xr.DataArray | xr.Dataset]]
) -> list[LineChart]:
    """Draw a metric.

    Parameters
    ----------
    metric : str
        Its name in the registry.
    results : sequence of (int, DataArray or Dataset)
        Of each run that has one, with the position of the run.

    Returns
    -------
    list of LineChart
        One for each panel, with the lines of all runs.
    """
    panels: dict[str, list[tuple[int, Axes]]] = {}
    for run, result in results:
        for axes in axes_of(result, METRICS[metric]):
            panels.setdefault(axes.panel.title, []).append((run, axes))
    charts = []
    for found in panels.values():
        lines = tuple(_lines(found))
        if not lines:
            continue
        first = found[0][1]
        log_y = first.panel.log_y
        charts.append(
            LineChart(
                key=f"{metric}-{first.panel.variables[0]}".replace("_", "-"),
                title=first.panel.title,
                unit=unit_text(first),
                about=first.panel.about,
                summary=described(lines, first.panel.percent),
                note=_thinned_note(metric, found, lines),
                lines=lines,
                axis=Axis(name=first.axis_name, step=first.axis in STEP_AXES),
                log_y=log_y,
                percent=first.panel.percent,
            )
        )
    return charts


def layer_charts(runs: Sequence[Measured]) -> list[HeatChart]:
    """Draw what happens in each layer.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    list of HeatChart
        Without the gradient where no run recorded it.
    """
    cells = sum(run.survey.layers.sizes["layer"] * run.survey.layers.sizes["step"] for run in runs)
    charts = []
    for panel in LAYERS:
        (name,) = panel.variables
        held = [
            (k, run.survey.layers[name]) for k, run in enumerate(runs) if name in run.survey.layers
        ]
        grids = tuple(_grid(k, values, cells > LAYER_CELLS, len(runs)) for k, values in held)
        if not grids:
            continue
        unit = str(held[0][1].attrs["units"])
        charts.append(
            HeatChart(
                key=f"layers-{name}".replace("_", "-"),
                title=panel.title,
                unit="per cent" if panel.percent else readable_unit(unit),
                about=panel.about,
                note="Means of stretches of steps; every step: ckptlab analyze telemetry RUN --by "
                "layer -o FILE.csv"
                if cells > LAYER_CELLS
                else "",
                grids=grids,
                percent=panel.percent,
            )
        )
    return charts


def path_charts(runs: Sequence[Measured]) -> list[PathChart]:
    """Draw the paths through principal components.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    list of PathChart
        In a plane and in space, as far as there are components.
    """
    charts: list[PathChart] = []
    for kind, title, count in (
        (PathChart, "In the plane of two components", 2),
        (SpaceChart, "With the third", 3),
    ):
        paths = tuple(_paths(runs, count))
        if paths:
            charts.append(
                kind(
                    key=f"path-{count}",
                    title=title,
                    unit="weight",
                    about="Coloured by step."
                    if count == 2
                    else "Drag to turn it, or use the arrow keys.",
                    paths=paths,
                )
            )
    return charts


def _lines(found: list[tuple[int, Axes]]) -> Iterator[Line]:
    names = list(dict.fromkeys(curve.name for _, axes in found for curve in axes.curves))
    total = sum(max(len(curve.x) for curve in axes.curves) for _, axes in found)
    for run, axes in found:
        for curve in axes.curves:
            x, y = curve.x, np.asarray(curve.y, float)
            if not np.isfinite(y).any():
                continue
            if total > LINE_STEPS and axes.axis in STEP_AXES:
                kept = downsample.extremes(y, downsample.stretches(x, max(KEPT // len(found), 2)))
                x, y = x[kept], y[kept]
            yield Line(
                name=curve.name if len(names) > 1 else "",
                x=x,
                y=y,
                run=run,
                style=names.index(curve.name),
                faint=curve.variable in axes.panel.faint,
                noisy=axes.panel.noisy,
            )


def _thinned_note(metric: str, found: list[tuple[int, Axes]], lines: tuple[Line, ...]) -> str:
    longest = max(len(curve.x) for _, axes in found for curve in axes.curves)
    if max(len(line.x) for line in lines) >= longest:
        return ""
    return (
        f"Lowest and highest values of stretches of the {longest:,} steps; every step: ckptlab "
        f"analyze {metric} RUN -o FILE.csv"
    )


def _is_dull(chart: LineChart) -> bool:
    """Say whether a chart that is only for what varies shows nothing that does."""
    panels = {panel.title: panel for panel in METRICS["telemetry"].plot.panels}
    if not panels[chart.title].if_varied:
        return False
    return all(np.nanmin(line.y) == np.nanmax(line.y) for line in chart.lines)


def _grid(run: int, values: xr.DataArray, thinned: bool, runs: int) -> Grid:
    steps, z = values["step"].values, values.values
    # The first step has no previous one, and no gradient.
    first = int(np.isfinite(z).any(axis=0).argmax())
    steps, z = steps[first:], z[:, first:]
    end = int(2 * steps[-1] - steps[-2]) if len(steps) > 1 else int(steps[-1]) + 1
    if thinned:
        starts = downsample.stretches(steps, max(KEPT // runs, 2))
        steps, z = steps[starts], downsample.means(z, starts)
    return Grid(run=run, rows=tuple(map(str, values["layer"].values)), x=steps, end=end, z=z)


def _paths(runs: Sequence[Measured], count: int) -> Iterator[Path3]:
    for k, run in enumerate(runs):
        projection = run.path["projection"].values
        if len(projection) >= count and np.isfinite(projection).all():
            yield Path3(
                run=k,
                step=run.path["step"].values,
                components=projection[:count],
                shares=run.path["explained_variance"].values[:count],
            )
