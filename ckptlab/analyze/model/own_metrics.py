"""Run the metrics that users register for a model, its loss and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.own_metrics import Portable
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import select_columns
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.analyze.registry.spec import Metric
from ckptlab.errors import ConfigError
from ckptlab.problems.examples import Subset, draw


def run_model(
    metric: Metric,
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = None,
    scheduler: Any = None,
    seed: int,
    samples: int,
    batch_size: int,
    batch_norm: str,
    **options: Any,
) -> xr.DataArray | xr.Dataset:
    """Call the function at each step with the model as it was, its loss and the data."""
    columns = select_columns(source, steps)
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm)
    subset = draw(data, samples, seed, batch_size)
    function = Portable(metric.compute) if callable(metric.compute) else None
    measure = partial(_values, function=function, options=options)
    found = spread(measure, replay, subset, columns, scheduler)
    coords = {"step": ("step", source.steps[columns], dict(STEP_ATTRIBUTES))}
    about = replay.describe(subset)
    if not isinstance(found[0], Mapping):
        return _array(metric, metric.python_name, found, coords).assign_attrs(about)
    variables = {
        name: _array(metric, name, [value[name] for value in found], coords) for name in found[0]
    }
    return xr.Dataset(variables, attrs=about)


def _values(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int] | npt.NDArray[Any],
    before: Any,
    *,
    function: Any,
    options: dict[str, Any],
) -> list[Any]:
    del before
    found = []
    for column in paced(columns):
        model.load_step(column)
        batches = list(subset.batches(model.device))
        found.append(function(model.model, model.loss, batches, **options))
    return found


def _array(metric: Metric, name: str, found: list[Any], coords: Any) -> xr.DataArray:
    values = np.array([np.asarray(value, float) for value in found])
    if values.ndim != len(metric.dims):
        raise ConfigError(
            f"{metric.name} returned values of {values.ndim - 1} dims; declare them with "
            f"@ckptlab.metric(dims=(...)), now {metric.dims[1:]}"
        )
    attrs = {"units": metric.unit, "long_name": metric.long_name}
    return xr.DataArray(values, coords, metric.dims, name, attrs)
