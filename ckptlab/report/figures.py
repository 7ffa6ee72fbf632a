"""A plotly figure for each metric, from its result and the hints in the registry.

Imports analyze.metric, report.template and errors. Whatever comes from a run is escaped: plotly
reads a little HTML in names and titles.
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

from ckptlab.analyze.metric import Metric
from ckptlab.errors import ConfigError
from ckptlab.report.template import COLOURS, DASHES, template

FORMATS: tuple[str, ...] = (".html", ".png")
"""Endings of figure files."""

AXES: tuple[str, ...] = ("step", "eval_step", "alpha")
"""Dims along the x axis."""

MARKERS_UP_TO = 40
"""A line of so few points shows them."""


def require_format(path: str) -> None:
    """Raise ConfigError unless a figure of this name can be written."""
    if Path(path).suffix not in FORMATS:
        raise ConfigError(f"{path!r}: the ending must be one of {', '.join(FORMATS)}")
    if path.endswith(".png"):
        _require_kaleido()


def figure(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    """Draw a result.

    Parameters
    ----------
    result : DataArray or Dataset
        Of the metric.
    metric : Metric
        Its entry in the registry, with hints.

    Returns
    -------
    plotly.graph_objects.Figure
        With our template; one panel for each variable of a Dataset.
    """
    draw = {"lines": _lines, "path": _path, "phases": _phases}[metric.plot.kind]
    drawn = draw(result, metric)
    drawn.update_layout(template=template(), title={"text": _title(result, metric)})
    return drawn


def write_figure(drawn: Any, path: str) -> str:
    """Write a figure.

    Parameters
    ----------
    drawn : plotly.graph_objects.Figure
        What to write.
    path : str
        ``FILE.html`` holds plotly.js and works offline; ``FILE.png`` needs kaleido.

    Returns
    -------
    str
        The path.
    """
    if path.endswith(".html"):
        drawn.write_html(path, include_plotlyjs=True, full_html=True)
    else:
        drawn.write_image(path, scale=2)
    return path


def _lines(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    from plotly.subplots import make_subplots

    panels = _panels(result, metric)
    columns = 1 if len(panels) <= 2 else 2
    rows = -(-len(panels) // columns)
    drawn = make_subplots(
        rows=rows,
        cols=columns,
        # Above the panel: a title along a short axis runs into its neighbours'.
        subplot_titles=[_axis_title(panel) for panel in panels] if len(panels) > 1 else None,
        horizontal_spacing=0.09,
        vertical_spacing=0.3 / max(rows, 2),
    )
    shared = len({tuple(name for name, _ in _curves(p)) for p in panels}) == 1
    for number, panel in enumerate(panels):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        curves = list(_curves(panel))
        for (name, values), (dash, colour) in zip(curves, _styles(len(curves)), strict=True):
            x, y = _points(_positions(panel[0], metric.plot.log_x), values)
            drawn.add_scatter(
                x=x,
                y=y,
                name=_escaped(name),
                legendgroup=name,
                showlegend=len(curves) > 1 and (number == 0 or not shared),
                mode="lines+markers" if len(x) <= MARKERS_UP_TO else "lines",
                line={"color": colour, "dash": dash, "width": 2},
                **place,
            )
        log_y = metric.plot.log_y and any(bool((part.values > 0).any()) for part in panel)
        title = _axis_title(panel) if len(panels) == 1 else _units(panel)
        drawn.update_yaxes(title_text=title, type="log" if log_y else "linear", **place)
        # One step axis for all, so that zooming into one panel zooms into every panel.
        drawn.update_xaxes(matches="x" if number else None, **place)
    drawn.update_xaxes(type="log" if metric.plot.log_x else "linear")
    drawn.update_xaxes(title_text=_x_title(panels[-1][0], metric), row=rows)
    drawn.update_annotations(font_size=14)
    drawn.update_layout(height=max(480, 130 + 240 * rows))
    return drawn


def _path(result: xr.DataArray | xr.Dataset, metric: Metric) -> Any:
    import plotly.graph_objects as go

    del metric
    parts = list(_by_run(result))
    drawn = go.Figure()
    for k, (run, part) in enumerate(parts):
        projection, steps = part["projection"].values, part["step"].values
        marker = {"color": steps, "colorscale": "Viridis", "size": 7, "colorbar": {"title": "step"}}
        alone = len(parts) == 1
        drawn.add_scatter(
            x=projection[0],
            y=projection[1] if len(projection) > 1 else np.zeros(len(steps)),
            mode="lines+markers",
            name=_escaped(run),
            line={"color": "#BBBBBB" if alone else COLOURS[k % len(COLOURS)]},
            # Of several runs colours tell one from another, of one they tell the time.
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
    """Yield the result of each run with its name; of a single one without."""
    if "run" not in result.dims:
        yield "", result
        return
    for k, run in enumerate(result["run"].values):
        yield str(run), result.isel(run=k)


def _panels(result: xr.DataArray | xr.Dataset, metric: Metric) -> list[list[xr.DataArray]]:
    """Choose what is drawn one above the other: each panel holds series on one axis."""
    if isinstance(result, xr.DataArray):
        return [[result]]
    drawable = {
        str(name): values
        for name, values in result.data_vars.items()
        if values.dtype.kind in "fiu" and _axis(values) != "run"
    }
    named = metric.plot.panels or tuple((name,) for name in drawable)
    panels = [[drawable[name] for name in names if name in drawable] for names in named]
    return [panel for panel in panels if panel]


def _curves(panel: list[xr.DataArray]) -> Iterator[tuple[str, Any]]:
    for part in panel:
        axis = _axis(part)
        others = [dim for dim in part.dims if dim != axis]
        title = str(part.attrs.get("long_name", part.name)) if len(panel) > 1 else ""
        if not others:
            yield title or str(part.name), part.values
            continue
        lines = part.transpose(*others, axis).values.reshape(-1, part.sizes[axis])
        for labels, values in zip(product(*(_labels(part, d) for d in others)), lines, strict=True):
            yield ", ".join(filter(None, (title, *labels))), values


def _labels(panel: xr.DataArray, dim: Any) -> list[str]:
    labels = [str(label) for label in panel[dim].values]
    if dim == "param" and "tensor" in panel.coords:
        names = panel["tensor"].values
        return [f"{name}, {label}" for name, label in zip(names, labels, strict=True)]
    return labels


def _axis(panel: xr.DataArray) -> str:
    """Return the dim along the x axis; `run` if there is none, since values without are no line."""
    along = next((str(d) for d in panel.dims if d in AXES), None)
    return along or (str(panel.dims[-1]) if panel.dims else "run")


def _styles(count: int) -> list[tuple[str, str]]:
    styles = list(product(DASHES, COLOURS))
    return [styles[k % len(styles)] for k in range(count)]


def _positions(panel: xr.DataArray, log: bool) -> Any:
    """Return steps for the axis; a logarithmic one has no place for step 0, which goes to 1/2."""
    steps = panel[_axis(panel)].values.astype(float)
    return np.where(steps == 0, 0.5, steps) if log else steps


def _points(x: Any, values: Any) -> tuple[Any, Any]:
    """Leave a gap where a value is missing; join what was measured now and then."""
    finite = np.isfinite(values)
    if 2 * finite.sum() < len(values):
        return x[finite], values[finite]
    return x, np.where(finite, values, None)


def _x_title(panel: xr.DataArray, metric: Metric) -> str:
    axis = panel[_axis(panel)]
    if "step" not in str(axis.name):
        return _escaped(str(axis.attrs.get("long_name", axis.name)))
    zero = bool((axis.values == 0).any())
    note = ", step 0 drawn at 0.5" if metric.plot.log_x and zero else ""
    return f"step [optimizer updates{note}]"


def _axis_title(panel: list[xr.DataArray]) -> str:
    titles = [str(part.attrs.get("long_name", part.name)) for part in panel]
    units = str(panel[0].attrs.get("units", "1"))
    against = panel[0].attrs.get("relative_to")
    name = ", ".join(titles)
    text = f"{name} (to {against})" if against is not None else name
    return _escaped(text if units == "1" else f"{text} [{units}]")


def _units(panel: list[xr.DataArray]) -> str:
    units = str(panel[0].attrs.get("units", "1"))
    return "" if units == "1" else _escaped(f"[{units}]")


def _title(result: xr.DataArray | xr.Dataset, metric: Metric) -> str:
    run = Path(str(result.attrs.get("run", ""))).name
    relative = result.attrs.get("relative_to")
    parts = [metric.name, f"relative to {relative}" if relative else "", run]
    return _escaped(" · ".join(part for part in parts if part))


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _require_kaleido() -> None:
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError(
            "drawing a .png needs kaleido: pip install 'ckptlab[png]', or draw an .html"
        )
