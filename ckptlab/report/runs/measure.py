"""Measure everything that a page shows of a run, and read results that were measured before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import xarray as xr

from ckptlab.analyze.engine.warnings import AnalysisWarning, UnfinishedRunWarning
from ckptlab.analyze.health.check import check_health
from ckptlab.analyze.health.findings import Health
from ckptlab.analyze.registry.metrics import METRICS, Metric, find_metric, metric_named
from ckptlab.analyze.weights.overview import Survey, survey
from ckptlab.errors import CkptlabError, ConfigError, LayoutError
from ckptlab.run import Run
from ckptlab.store.read.info import run_facts

WEIGHTS = 10
"""Number of single weights whose values are drawn."""

COMPONENTS = 3
"""Principal components of the path."""

CURVATURE: tuple[str, ...] = ("hessian-spectrum", "fisher-trace")
"""Metrics that ``--curvature`` measures."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """Everything measured of one run.

    `facts` are those of `run_facts`, `weights` the values of a few weights, `path` is the metric
    ``subspace``, `results` holds further results by metric, `health` what is wrong with the series.
    """

    name: str
    facts: dict[str, Any]
    survey: Survey
    weights: xr.DataArray | xr.Dataset
    path: xr.Dataset | xr.DataArray
    results: Mapping[str, xr.DataArray | xr.Dataset]
    health: Health
    warnings: tuple[str, ...] = ()


def measure_run(
    run: Run,
    name: str,
    *,
    curvature: bool = False,
    metrics: Sequence[str] = (),
    results: Mapping[str, xr.DataArray | xr.Dataset] | None = None,
    **options: Any,
) -> MeasuredRun:
    """Measure a run for a page, as far as it is committed.

    Parameters
    ----------
    run : Run
        The recording; the store is read four times, block by block.
    name : str
        What the page calls it.
    curvature : bool
        Measure `CURVATURE` at a few steps too, which takes long and needs the run's model and data.
    metrics : sequence of str
        Further metrics to measure; those registered with ``report=True`` are measured in any case.
    results : mapping, optional
        Results that were measured before, by metric.
    **options
        `steps`, `kinds`, `scheduler` and `memory`, as `Run.analyze` takes them.

    Returns
    -------
    MeasuredRun
        Its measurements.

    Raises
    ------
    StepError
        If fewer than two committed steps are selected.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AnalysisWarning)
        # The head of the page says so.
        warnings.simplefilter("ignore", UnfinishedRunWarning)
        overview = survey(run, **options)
        count = min(WEIGHTS, int(overview.network["weight_magnitude"].attrs["weights"]))
        weights = run.analyze("trajectories", count=count, **options)
        path = run.analyze("subspace", components=COMPONENTS, **options)
        further = dict(results or {})
        for curved in CURVATURE if curvature else ():
            if curved not in further:
                further[curved] = run.analyze(curved)
        asked = [find_metric(metric) for metric in metrics]
        for metric in asked:
            if metric.name not in further:
                further[metric.name] = run.analyze(metric.name, **_accepted(metric, options))
        for metric in [m for m in METRICS.values() if m.plot.report and m.name not in further]:
            try:
                further[metric.name] = run.analyze(metric.name, **_accepted(metric, options))
            except CkptlabError as error:
                message = f"{metric.name} was not measured: {error}"
                warnings.warn(message, AnalysisWarning, stacklevel=2)
    said = [str(w.message) for w in caught if issubclass(w.category, AnalysisWarning)]
    return MeasuredRun(
        name=name,
        facts=run_facts(run.stored),
        survey=overview,
        weights=weights,
        path=path,
        results=further,
        health=check_health(run, memory=options.get("memory") or "1GiB"),
        warnings=tuple(dict.fromkeys(said)),
    )


def _accepted(metric: Metric, options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in metric.options}


def read_results(paths: Sequence[str], runs: Sequence[str]) -> list[dict[str, Any]]:
    """Read results of ``ckptlab analyze METRIC -o FILE``; return those of each run, by metric.

    Raises ConfigError if a file holds no result a report can draw, LayoutError if it is of a run
    that the page is not about.
    """
    found: list[dict[str, Any]] = [{} for _ in runs]
    for path in paths:
        result = _open_result(path)
        metric = _metric_of(result, path)
        for run, part in _by_run(result, runs, path).items():
            if metric.name in found[run]:
                raise ConfigError(f"{path} is another {metric.name} of {runs[run]}; give only one")
            found[run][metric.name] = part
    return found


def _open_result(path: str) -> xr.Dataset:
    readers: dict[str, Callable[[str], xr.Dataset]] = {
        ".nc": xr.load_dataset,
        ".zarr": partial(xr.open_dataset, engine="zarr", consolidated=None),
    }
    suffix = PurePath(path.rstrip("/")).suffix
    if suffix not in readers:
        raise ConfigError(
            f"{path!r}: a result must be .nc or .zarr; write one with ckptlab analyze METRIC RUN "
            "-o FILE.nc"
        )
    try:
        result: xr.Dataset = readers[suffix](path).load()
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read as a result: {error}") from error
    return result


def _metric_of(result: xr.Dataset, path: str) -> Metric:
    name = result.attrs.get("metric")
    drawn = [m.name for m in METRICS.values() if m.plot.kind == "lines" and m.name != "telemetry"]
    if name is None:
        raise ConfigError(
            f"{path} names no metric, so ckptlab analyze did not write it. Write one with ckptlab "
            "analyze METRIC RUN -o FILE.nc"
        )
    metric = metric_named(str(name))
    if metric.name not in drawn:
        raise ConfigError(
            f"{path} holds {metric.name}, which a report measures itself; results it takes: "
            f"{', '.join(drawn)}"
        )
    return metric


def _by_run(result: xr.Dataset, runs: Sequence[str], path: str) -> dict[int, xr.Dataset]:
    if "run" in result.dims:
        names = [str(name) for name in result["run"].values]
        parts = [result.isel(run=k, drop=True) for k in range(len(names))]
    else:
        names, parts = [str(result.attrs.get("run", ""))], [result]
    places = {}
    for name, part in zip(names, parts, strict=True):
        matches = _matches(name, runs)
        if len(matches) == 1:
            places[matches[0]] = part
        elif len(names) == 1:
            raise LayoutError(
                f"{path} is a result of {name!r}; the report is of {', '.join(runs)}. Give results "
                "of these runs"
            )
    if not places:
        raise LayoutError(
            f"{path} holds results of {', '.join(names)}, none of which is in the report"
        )
    return places


def _matches(name: str, runs: Sequence[str]) -> list[int]:
    """Find the runs a result may be of: by path, or by name if it was moved."""
    exact = [k for k, run in enumerate(runs) if PurePath(run) == PurePath(name)]
    last = PurePath(name.rstrip("/")).name
    ends = [PurePath(run.rstrip("/")) for run in runs]
    return exact or [k for k, end in enumerate(ends) if last in (end.name, end.stem)]
