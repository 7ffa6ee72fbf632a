"""Split a metric's result into panels of named curves, for plotly figures and pages alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.registry.metrics import Metric
from ckptlab.analyze.registry.panels import Panel

Array = npt.NDArray[Any]

STEP_DIMS: tuple[str, ...] = ("step", "eval_step")
"""Dims that count optimizer updates."""

X_DIMS: tuple[str, ...] = (*STEP_DIMS, "alpha")
"""Dims that go along the x axis."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve: its name tells it from the others of its panel; NaN in `y` is a gap."""

    name: str
    variable: str
    x: Array
    y: Array


@dataclass(frozen=True, slots=True)
class PanelData:
    """A panel with its curves, the dim along x, and the units of y.

    `relative_to` is the step that all values are relative to, if they share one.
    """

    panel: Panel
    curves: tuple[Curve, ...]
    x_dim: str
    x_name: str
    units: str
    relative_to: str | None = None

    @property
    def over_steps(self) -> bool:
        """Whether x counts optimizer updates."""
        return self.x_dim in STEP_DIMS


def panels_of(result: xr.DataArray | xr.Dataset, metric: Metric) -> list[PanelData]:
    """Split a result of a metric into those of its panels that have something to draw."""
    found = []
    for panel, parts in _parts(result, metric):
        dim = x_dim_of(parts[0], metric.plot.x)
        named = parts[0][dim].attrs.get("long_name", dim) if dim in parts[0].coords else dim
        name = "step" if dim in STEP_DIMS else str(named)
        units = str(parts[0].attrs.get("units", "1"))
        references = {part.attrs.get("relative_to") for part in parts}
        relative_to = references.pop() if len(references) == 1 else None
        found.append(
            PanelData(panel, tuple(_curves(parts, metric.plot.x)), dim, name, units, relative_to)
        )
    return found


def x_dim_of(part: xr.DataArray, x: str = "") -> str:
    """Return what is along the x axis: the coordinate `x` if there is one, or a dim.

    ``run`` for single values, which make no line.
    """
    if x in part.coords:
        return x
    along = next((str(d) for d in part.dims if d in X_DIMS), None)
    return along or (str(part.dims[-1]) if part.dims else "run")


def without_sparse_gaps(curve: Curve) -> Curve:
    """Join the points of a curve measured only now and then; keep gaps where few are missing."""
    finite = np.isfinite(curve.y)
    if 2 * finite.sum() >= len(curve.y):
        return curve
    return Curve(curve.name, curve.variable, curve.x[finite], curve.y[finite])


def _parts(
    result: xr.DataArray | xr.Dataset, metric: Metric
) -> Iterator[tuple[Panel, list[xr.DataArray]]]:
    if isinstance(result, xr.DataArray):
        title = str(result.attrs.get("long_name", result.name))
        yield _panel(str(result.name), title, metric.summary, metric), [result]
        return
    drawable = {
        str(name): values
        for name, values in result.data_vars.items()
        if values.dtype.kind in "fiu" and x_dim_of(values) != "run"
    }
    about = metric.summary if len(drawable) == 1 else ""
    panels = metric.plot.panels or tuple(
        _panel(name, str(values.attrs.get("long_name", name)), about, metric)
        for name, values in drawable.items()
    )
    for panel in panels:
        parts = [drawable[name] for name in panel.variables if name in drawable]
        if parts:
            yield panel, parts


def _panel(variable: str, title: str, about: str, metric: Metric) -> Panel:
    return Panel(variables=(variable,), title=title, about=about, log_y=metric.plot.log_y)


def _curves(parts: list[xr.DataArray], along: str = "") -> Iterator[Curve]:
    for part, name in zip(parts, _names(parts), strict=True):
        if along in part.coords:
            yield from _own_curves(part, along, name)
            continue
        dim = x_dim_of(part)
        x = part[dim].values
        others = [d for d in part.dims if d != dim]
        if not others:
            yield without_sparse_gaps(Curve(name or str(part.name), str(part.name), x, part.values))
            continue
        lines = part.transpose(*others, dim).values.reshape(-1, part.sizes[dim])
        for labels, y in zip(product(*(_labels(part, d) for d in others)), lines, strict=True):
            named = ", ".join(filter(None, (name, *labels)))
            yield without_sparse_gaps(Curve(named, str(part.name), x, y))


def _own_curves(part: xr.DataArray, along: str, name: str) -> Iterator[Curve]:
    """Yield lines along the last dim of a coordinate that differs from line to line."""
    dim = part[along].dims[-1]
    others = [d for d in part.dims if d != dim]
    positions = part[along].broadcast_like(part)
    x, y = (
        values.transpose(*others, dim).values.reshape(-1, part.sizes[dim])
        for values in (positions, part)
    )
    for k, labels in enumerate(product(*(_labels(part, d) for d in others))):
        named = ", ".join(filter(None, (name, *map(str, labels))))
        yield Curve(named or str(part.name), str(part.name), x[k], y[k])


def _names(parts: list[xr.DataArray]) -> list[str]:
    """Name the variables of a panel by what differs; a single one needs no name."""
    if len(parts) == 1:
        return [""]
    names = [str(part.attrs.get("long_name", part.name)) for part in parts]
    if len(set(names)) == len(names):
        return names
    return [f"to {part.attrs.get('relative_to', part.name)}" for part in parts]


def _labels(part: xr.DataArray, dim: Any) -> list[str]:
    labels = [str(label) for label in part[dim].values]
    if dim == "param" and "tensor" in part.coords:
        names = part["tensor"].values
        return [f"{name}, {label}" for name, label in zip(names, labels, strict=True)]
    return labels
