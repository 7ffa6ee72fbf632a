"""``ds.ckpt``: the metrics on any dataset that was opened from a recording.

Registered as soon as both ckptlab and xarray are imported.
"""

from __future__ import annotations

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

    def analyze(self, name: str, **options: Any) -> xr.DataArray | xr.Dataset:
        """Compute a metric, as `Run.analyze` does."""
        from ckptlab.analyze.registry.metrics import compute, metric_named
        from ckptlab.builtin import inputs_for

        with inputs_for(metric_named(name), self._dataset.attrs, options) as inputs:
            return compute(self._dataset, name, **{**options, **inputs})

    def __getattr__(self, name: str) -> Any:
        from ckptlab.analyze.registry.metrics import METRICS

        metric = name.replace("_", "-")
        if name.startswith("_") or metric not in METRICS:
            raise AttributeError(f"ds.ckpt has no metric {name!r}")
        return lambda **options: self.analyze(metric, **options)

    def __dir__(self) -> list[str]:
        from ckptlab.analyze.registry.metrics import METRICS

        return ["analyze", *(name.replace("-", "_") for name in METRICS)]
