"""``ds.ckpt``: the metrics on any dataset that was opened from a recording.

Registered as soon as both ckptlab and xarray are imported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import xarray as xr


@xr.register_dataset_accessor("ckpt")
class CkptAccessor:
    """The metrics of a recording, on a dataset opened with ``xr.open_zarr`` or a part of it.

    Parameters
    ----------
    dataset : Dataset
        With the arrays of a recording.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def analyze(self, name: str | Callable[..., Any], **options: Any) -> xr.DataArray | xr.Dataset:
        """Compute a metric, as `Run.analyze` does."""
        from ckptlab.analyze.registry.metrics import compute, find_metric
        from ckptlab.builtin import inputs_for

        metric = find_metric(name)
        with inputs_for(metric, self._dataset.attrs, options) as inputs:
            return compute(self._dataset, metric, **{**options, **inputs})

    def __getattr__(self, name: str) -> Any:
        from ckptlab.analyze.registry.metrics import METRICS

        if not name.startswith("_"):
            for metric in METRICS.values():
                if metric.python_name == name:
                    return partial(self.analyze, metric.name)
        raise AttributeError(f"ds.ckpt has no metric {name!r}")

    def __dir__(self) -> list[str]:
        from ckptlab.analyze.registry.metrics import METRICS

        return ["analyze", *(metric.python_name for metric in METRICS.values())]
