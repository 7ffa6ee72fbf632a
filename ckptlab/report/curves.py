"""Results as curves: which panels a result has, and the named curves of each.

Nothing here knows plotly or a browser.
"""

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

STEP_AXES: tuple[str, ...] = ("step", "eval_step")
"""Dims that count optimizer updates."""

AXES: tuple[str, ...] = (*STEP_AXES, "alpha")
"""Dims along the x axis."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line.

    Parameters
    ----------
    name : str
        What tells it from the others of its panel; the variable where nothing has to.
    variable : str
        The variable it is of.
    x, y : ndarray, shape (points,)
        NaN in y is a gap.
    """

    name: str
    variable: str
    x: Array
    y: Array


@dataclass(frozen=True, slots=True)
class Axes:
    """A pair of axes and what is drawn on it.

    Parameters
    ----------
    panel : Panel
        Title, explanation and scale.
    curves : tuple of Curve
        In order.
    axis : str
        Dim along x.
    axis_name : str
        What it is called.
    units : str
        Of y; ``1`` for none.
    against : str or None
        What all of it is relative to.
    """

    panel: Panel
    curves: tuple[Curve, ...]
    axis: str
    axis_name: str
    units: str
    against: str | None = None


def axes_of(result: xr.DataArray | xr.Dataset, metric: Metric) -> list[Axes]:
    """Cut a result into panels.

    Parameters
    ----------
    result : DataArray or Dataset
        Of the metric.
    metric : Metric
        Its entry, with hints.

    Returns
    -------
    list of Axes
        Those that have something to draw.
    """
    found = []
    for panel, parts in _parts(result, metric):
        axis = axis_of(parts[0])
        named = parts[0][axis].attrs.get("long_name", axis) if axis in parts[0].dims else axis
        name = "step" if axis in STEP_AXES else str(named)
        units = str(parts[0].attrs.get("units", "1"))
        references = {part.attrs.get("relative_to") for part in parts}
        against = references.pop() if len(references) == 1 else None
        found.append(Axes(panel, tuple(_curves(parts)), axis, name, units, against))
    return found


def axis_of(part: xr.DataArray) -> str:
    """Return the dim along the x axis; `run` if there is none, since values without are no line."""
    along = next((str(d) for d in part.dims if d in AXES), None)
    return along or (str(part.dims[-1]) if part.dims else "run")


def measured(curve: Curve) -> Curve:
    """Join what was measured now and then; leave gaps where only some values are missing."""
    finite = np.isfinite(curve.y)
    if 2 * finite.sum() >= len(curve.y):
        return curve
    return Curve(curve.name, curve.variable, curve.x[finite], curve.y[finite])


def _parts(
    result: xr.DataArray | xr.Dataset, metric: Metric
) -> Iterator[tuple[Panel, list[xr.DataArray]]]:
    if isinstance(result, xr.DataArray):
        title = str(result.attrs.get("long_name", result.name))
        only = Panel(
            variables=(str(result.name),),
            title=title,
            about=metric.summary,
            log_y=metric.plot.log_y,
        )
        yield only, [result]
        return
    drawable = {
        str(name): values
        for name, values in result.data_vars.items()
        if values.dtype.kind in "fiu" and axis_of(values) != "run"
    }
    panels = metric.plot.panels or tuple(
        Panel(
            variables=(name,),
            title=str(values.attrs.get("long_name", name)),
            about=metric.summary if len(drawable) == 1 else "",
            log_y=metric.plot.log_y,
        )
        for name, values in drawable.items()
    )
    for panel in panels:
        parts = [drawable[name] for name in panel.variables if name in drawable]
        if parts:
            yield panel, parts


def _curves(parts: list[xr.DataArray]) -> Iterator[Curve]:
    for part, name in zip(parts, _names(parts), strict=True):
        axis = axis_of(part)
        x = part[axis].values
        others = [dim for dim in part.dims if dim != axis]
        if not others:
            yield measured(Curve(name or str(part.name), str(part.name), x, part.values))
            continue
        lines = part.transpose(*others, axis).values.reshape(-1, part.sizes[axis])
        for labels, y in zip(product(*(_labels(part, d) for d in others)), lines, strict=True):
            named = ", ".join(filter(None, (name, *labels)))
            yield measured(Curve(named, str(part.name), x, y))


def _names(parts: list[xr.DataArray]) -> list[str]:
    """Say what tells variables of one panel apart."""
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
