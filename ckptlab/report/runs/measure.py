"""What a page says of one run: everything measured, with what could not be.

Nothing here draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import xarray as xr

from ckptlab.analyze.engine.warnings import AnalysisWarning, UnfinishedRunWarning
from ckptlab.analyze.registry.metrics import METRICS, Metric, metric_named
from ckptlab.analyze.weights.overview import Survey, survey
from ckptlab.errors import ConfigError, LayoutError
from ckptlab.run import Run
from ckptlab.store.read.info import run_facts

WEIGHTS = 10
"""Single weights whose values are shown."""

COMPONENTS = 3

CURVATURE: tuple[str, ...] = ("hessian-spectrum", "fisher-trace")
"""What is measured where curvature is asked for."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run, measured.

    Parameters
    ----------
    name : str
        On the page.
    facts : dict
        As `run_facts` gives them.
    survey : Survey
        Of the weights.
    weights : DataArray, dims (param, step)
        Values of a few.
    path : Dataset
        What the metric `subspace` gives.
    results : dict of str to DataArray or Dataset
        Further ones, by metric.
    warnings : tuple of str
        What the measurements warned of.
    """

    name: str
    facts: dict[str, Any]
    survey: Survey
    weights: xr.DataArray | xr.Dataset
    path: xr.Dataset | xr.DataArray
    results: Mapping[str, xr.DataArray | xr.Dataset]
    warnings: tuple[str, ...] = ()


def measure(
    run: Run,
    name: str,
    *,
    steps: Any = None,
    kinds: Any = None,
    scheduler: Any = None,
    curvature: bool = False,
    results: Mapping[str, xr.DataArray | xr.Dataset] | None = None,
) -> Measured:
    """Measure a run.

    Parameters
    ----------
    run : Run
        The recording, as far as it is committed.
    name : str
        On the page.
    steps, kinds, scheduler : object
        As `Run.analyze` takes them.
    curvature : bool
        Measure `CURVATURE` too, at a few steps, which takes long; needs a run of the built-in
        trainer.
    results : mapping, optional
        Results that were computed before, by metric.

    Returns
    -------
    Measured
        The store is read three times, block by block.

    Raises
    ------
    StepError
        If fewer than two steps are committed and selected.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AnalysisWarning)
        # The page says it once, at its head.
        warnings.simplefilter("ignore", UnfinishedRunWarning)
        selected = {"steps": steps, "kinds": kinds, "scheduler": scheduler}
        overview = survey(run, **selected)
        count = min(WEIGHTS, int(overview.network["weight_magnitude"].attrs["weights"]))
        weights = run.analyze("trajectories", count=count, **selected)
        path = run.analyze("subspace", components=COMPONENTS, **selected)
        further = dict(results or {})
        for metric in CURVATURE if curvature else ():
            if metric not in further:
                further[metric] = run.analyze(metric)
    said = [str(w.message) for w in caught if issubclass(w.category, AnalysisWarning)]
    return Measured(
        name=name,
        facts=run_facts(run.stored),
        survey=overview,
        weights=weights,
        path=path,
        results=further,
        warnings=tuple(dict.fromkeys(said)),
    )


def read_results(paths: Sequence[str], runs: Sequence[str]) -> list[dict[str, Any]]:
    """Read results that ``ckptlab analyze METRIC -o FILE`` wrote, and find the runs they are of.

    Parameters
    ----------
    paths : sequence of str
        ``.nc`` or ``.zarr``.
    runs : sequence of str
        Paths of the runs of the page.

    Returns
    -------
    list of dict
        For each run its results, by metric.

    Raises
    ------
    ConfigError
        If a file is no such result, or of another run.
    """
    found: list[dict[str, Any]] = [{} for _ in runs]
    for path in paths:
        result = _open_result(path)
        metric = _metric_of(result, path)
        for run, part in _by_run(result, runs, path).items():
            if metric.name in found[run]:
                raise ConfigError(
                    f"{path}: there is another {metric.name} of {runs[run]}; give one"
                )
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
        raise ConfigError(f"{path} is no result of ckptlab analyze: it names no metric")
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
    """Find the runs a result may be of: by its path, else by its name, as it may have moved."""
    exact = [k for k, run in enumerate(runs) if PurePath(run) == PurePath(name)]
    last = PurePath(name.rstrip("/")).name
    ends = [PurePath(run.rstrip("/")) for run in runs]
    return exact or [k for k, end in enumerate(ends) if last in (end.name, end.stem)]
