"""Draw the result of any metric as a plotly figure, as the hints in the registry say.

Text from a run is escaped, since plotly reads some HTML in names and titles.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ckptlab.analyze.registry.metrics import Metric
from ckptlab.atomic import written_aside
from ckptlab.errors import ConfigError
from ckptlab.report.plot_data import Curve, PanelData, panels_of
from ckptlab.report.theme import COLOURS, DASHES, THEMES, colour_scale, plotly_template

FORMATS: tuple[str, ...] = (".html", ".png", ".svg")
"""Endings of the files a figure can be written to."""

MARKERS_UP_TO = 40
"""Lines of at most this many points show markers."""

LEGEND_ROW = 26
"""Height of a row of the legend, in pixels."""


def require_format(path: str) -> None:
    """Raise ConfigError unless a figure can be written to this path."""
    if Path(path).suffix not in FORMATS:
        raise ConfigError(f"{path!r}: the ending must be one of {', '.join(FORMATS)}")
    if not path.endswith(".html"):
        _require_kaleido(path)


def figure(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    """Return the plotly figure of a metric's result, one panel for each variable of a Dataset."""
    kinds = {"lines": _lines, "path": _path, "phases": _phases, "surface": _surface}
    draw = kinds[metric.plot.kind]
    drawn = draw(result, metric)
    drawn.update_layout(template=plotly_template(), title={"text": _title(result, metric)})
    return drawn


def write_figure(drawn: Any, path: str) -> str:
    """Write a figure aside and rename it to `path`; return the path.

    ``.html`` holds plotly.js and works offline; ``.png`` and ``.svg`` need kaleido.
    """
    with written_aside(path) as aside:
        if aside.suffix == ".html":
            drawn.write_html(aside, include_plotlyjs=True, full_html=True)
        else:
            drawn.write_image(aside, scale=2, width=1100)
    return path


def _lines(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    from plotly.subplots import make_subplots

    panels = panels_of(result, metric)
    columns = 1 if len(panels) <= 2 else 2
    rows = -(-len(panels) // columns)
    drawn = make_subplots(
        rows=rows, cols=columns, horizontal_spacing=0.12, vertical_spacing=0.4 / max(rows, 2)
    )
    for number, data in enumerate(panels):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        legend = f"legend{number + 1}" if number else "legend"
        for curve, style in zip(data.curves, _styles(len(data.curves)), strict=True):
            drawn.add_scatter(
                **_line(curve, data, style, metric),
                showlegend=len(data.curves) > 1,
                legend=legend,
                **place,
            )
        log_y = data.panel.log_y and any(bool((curve.y > 0).any()) for curve in data.curves)
        drawn.update_yaxes(
            title_text=_y_title(data, alone=len(panels) == 1),
            type="log" if log_y else "linear",
            tickformat=".2~%" if data.panel.percent else None,
            **place,
        )
        # Panels over steps share one axis, so that zooming into one zooms into all of them.
        first = next(k for k, other in enumerate(panels) if other.x_name == data.x_name)
        drawn.update_xaxes(
            matches=f"x{first + 1 if first else ''}" if number > first else None,
            type="log" if metric.plot.log_x and data.over_steps else "linear",
            title={"text": _x_title(data, metric), "font": {"size": 12}},
            **place,
        )
        if len(panels) > 1:
            _head(drawn, data, legend, number)
    longest = max(len(data.curves) for data in panels) if len(panels) == 1 else 0
    drawn.update_layout(
        height=max(480, 130 + 300 * rows, 150 + LEGEND_ROW * longest),
        margin_t=60 if len(panels) == 1 else 110,
    )
    return drawn


def _head(drawn: Any, data: PanelData, legend: str, number: int) -> None:
    """Write a panel's title above it, and its legend between the two."""
    suffix = str(number + 1) if number else ""
    left = drawn.layout[f"xaxis{suffix}"].domain[0]
    top = drawn.layout[f"yaxis{suffix}"].domain[1]
    place = {"x": left, "xanchor": "left", "y": top, "yanchor": "bottom"}
    drawn.add_annotation(
        text=_escaped(data.panel.title),
        font={"size": 15},
        showarrow=False,
        xref="paper",
        yref="paper",
        yshift=22 if len(data.curves) > 1 else 6,
        **place,
    )
    drawn.update_layout({legend: {"orientation": "h", "font": {"size": 11}, **place}})


def _line(curve: Curve, data: PanelData, style: tuple[str, str], metric: Metric) -> dict[str, Any]:
    dash, colour = style
    faint = curve.variable in data.panel.faint
    return {
        "x": positions(curve.x, metric.plot.log_x and data.over_steps),
        "y": np.where(np.isfinite(curve.y), curve.y, np.nan),
        "name": _escaped(curve.name),
        "mode": "lines+markers" if len(curve.x) <= MARKERS_UP_TO else "lines",
        "line": {"color": colour, "dash": "solid" if faint else dash, "width": 1 if faint else 2},
        "opacity": 0.45 if faint else 1,
    }


def _path(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    import plotly.graph_objects as go

    del metric
    parts = list(_by_run(result))
    drawn = go.Figure()
    for k, (run, part) in enumerate(parts):
        projection, steps = part["projection"].values, part["step"].values
        marker = {
            "color": steps,
            "colorscale": colour_scale(THEMES["light"].order),
            "size": 7,
            "colorbar": {"title": "step"},
        }
        alone = len(parts) == 1
        drawn.add_scatter(
            x=projection[0],
            y=projection[1] if len(projection) > 1 else np.zeros(len(steps)),
            mode="lines+markers",
            name=_escaped(run),
            line={"color": THEMES["light"].grid if alone else COLOURS[k % len(COLOURS)]},
            # Colour tells several runs apart; for a single run it shows the step.
            marker=marker if alone else {"size": 5},
            customdata=steps,
            hovertemplate="step %{customdata}<br>%{x:.4g}, %{y:.4g}<extra>%{fullData.name}</extra>",
        )
    shares = [part["explained_variance"].values for _, part in parts]
    titles = [_component_title(k, [s[k] for s in shares]) for k in range(min(2, len(shares[0])))]
    drawn.update_xaxes(title_text=titles[0])
    drawn.update_yaxes(title_text=titles[-1] if len(titles) > 1 else "")
    drawn.update_layout(hovermode="closest", height=620)
    return drawn


def _surface(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    """Draw contours of the loss and the path over them, or on a line the loss alone."""
    from plotly.subplots import make_subplots

    del metric
    parts = list(_by_run(result))
    drawn = make_subplots(rows=len(parts), cols=1, subplot_titles=[_escaped(n) for n, _ in parts])
    for k, (_, part) in enumerate(parts):
        place, values = {"row": k + 1, "col": 1}, part["loss"].values
        units = f"loss [{part['loss'].attrs.get('units', '')}]"
        drawn.update_xaxes(title_text="distance from the origin [weight]", **place)
        if values.ndim == 1:
            drawn.add_scatter(x=part["x"].values, y=values, showlegend=False, **place)
            drawn.update_yaxes(title_text=units, **place)
            continue
        drawn.add_contour(
            x=part["x"].values,
            y=part["y"].values,
            z=values,
            ncontours=30,
            colorscale=colour_scale(THEMES["light"].order),
            colorbar={"title": units, "len": 1 / len(parts), "y": 1 - (k + 0.5) / len(parts)},
            **place,
        )
        drawn.add_scatter(
            x=part["path_x"].values,
            y=part["path_y"].values,
            mode="lines+markers",
            line={"color": THEMES["light"].ink},
            customdata=part["step"].values,
            hovertemplate="step %{customdata}<extra></extra>",
            showlegend=False,
            **place,
        )
        drawn.update_yaxes(title_text="[weight]", **place)
    drawn.update_layout(hovermode="closest", height=120 + 500 * len(parts))
    return drawn


def _component_title(k: int, shares: list[float]) -> str:
    low, high = (f"{100 * share:.1f}" for share in (min(shares), max(shares)))
    span = low if low == high else f"{low} to {high}"
    owner = "" if len(shares) == 1 else " of each run"
    return f"component {k + 1}{owner} ({span} % of the variance) [weight]"


def _phases(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    import plotly.graph_objects as go

    del metric
    drawn = go.Figure()
    count = 0
    for run, part in _by_run(result):
        for k, phase in enumerate(part["phase"].values):
            row = part.isel(phase=k)
            drawn.add_bar(
                x=[float(row["stop"]) - float(row["start"])],
                base=[float(row["start"])],
                y=[_escaped(", ".join(filter(None, (run, str(phase)))))],
                orientation="h",
                marker={"color": COLOURS[k % len(COLOURS)]},
                hovertext=_escaped(str(row["text"].item())),
                hoverinfo="text",
                showlegend=False,
                text=_escaped(f"here: {row['agrees'].item()}"),
            )
            count += 1
    drawn.update_xaxes(title_text="step [optimizer updates]")
    drawn.update_yaxes(autorange="reversed")
    drawn.update_layout(hovermode="closest", height=140 + 80 * count)
    return drawn


def _by_run(result: xr.DataArray | xr.Dataset) -> Iterator[tuple[str, Any]]:
    """Yield each run's name and result; a single run needs no name."""
    if "run" not in result.dims:
        yield "", result
        return
    for k, run in enumerate(result["run"].values):
        yield str(run), result.isel(run=k)


def _styles(count: int) -> list[tuple[str, str]]:
    styles = list(product(DASHES, COLOURS))
    return [styles[k % len(styles)] for k in range(count)]


def positions(steps: Any, log: bool) -> Any:
    """Return steps as x values; a logarithmic axis shows step 0 at 1/2."""
    steps = np.asarray(steps, float)
    return np.where(steps == 0, 0.5, steps) if log else steps


def _x_title(data: PanelData, metric: Metric) -> str:
    if not data.over_steps:
        return _escaped(data.x_name)
    zero = any(bool((curve.x == 0).any()) for curve in data.curves)
    note = ", step 0 drawn at 0.5" if metric.plot.log_x and zero else ""
    return f"step [optimizer updates{note}]"


def _y_title(data: PanelData, *, alone: bool) -> str:
    units = "" if data.units == "1" else f"[{data.units}]"
    against = data.relative_to if alone else None
    parts = [data.panel.title if alone else "", f"(to {against})" if against else "", units]
    return _escaped(" ".join(part for part in parts if part))


def _title(result: xr.DataArray | xr.Dataset, metric: Metric) -> str:
    run = Path(str(result.attrs.get("run", ""))).name
    relative = result.attrs.get("relative_to")
    parts = [metric.name, f"relative to {relative}" if relative else "", run]
    return _escaped(" · ".join(part for part in parts if part))


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _require_kaleido(path: str) -> None:
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError(
            f"drawing a {Path(path).suffix} needs kaleido: pip install 'ckptlab[png]', or draw an "
            ".html"
        )
