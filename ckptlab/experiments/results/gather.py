"""Gather the results of an experiment from its jobs into one Dataset, at any time; gaps are NaN."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import xarray as xr

from ckptlab.analyze.engine.labels import loss_units
from ckptlab.analyze.io import save_dataset
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.jobs.plan import Cell, ExperimentPlan
from ckptlab.experiments.jobs.scheduler import Outcome
from ckptlab.store.read.reader import StoredRun, open_store

NUMBERS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("1", "accuracy on the test set at the end"),
    "loss": ("loss", "loss on the test set at the end"),
    "density": ("1", "share of prunable weights kept"),
    "empty_tensors": ("1", "tensors without any weight left"),
    "effective_std": ("weight", "standard deviation of what the perturbation changed"),
}
"""Results of a training, with units and long names; `loss_units` says what ``loss`` is."""

COORDINATES: Mapping[str, tuple[str, str]] = {
    "pruning": ("", "pruning criterion"),
    "perturbation": ("", "perturbation"),
    "task": ("", "task of pre-training"),
    "rewind": ("optimizer updates", "step rewound to"),
    "level": ("1", "number of prunings"),
    "length": ("optimizer updates", "length of pre-training"),
    "onset": ("optimizer updates", "first step with the deficit"),
    "duration": ("optimizer updates", "steps with the deficit"),
    "replicate": ("1", "replicate"),
}
"""Dims of results, with units and long names."""


def gather(plan: ExperimentPlan, folder: Folder, outcome: Outcome) -> xr.Dataset:
    """Gather the results that are there.

    Over the plan's dims: of trainings the `NUMBERS`, of measurements what the metric gives (with
    the metric's name before it where two metrics share a name over other dims); always `job` (id)
    and `state` (done, failed, blocked or open). `mask` (param, level) where one series of masks was
    made. Attributes count the jobs and hold `failures` and `warnings`.
    """
    measured = any(isinstance(plan.jobs.get(cell.run), MeasureJob) for cell in plan.cells)
    values = _measured(plan, folder, outcome) if measured else _trained(plan, folder, outcome)
    dataset = xr.merge(
        [_states(plan, outcome), values], join="outer", combine_attrs="drop_conflicts"
    )
    mask = _mask(plan, folder, outcome)
    if mask is not None:
        dataset = dataset.assign(mask=mask[0])
        dataset.attrs["tensors"] = mask[1]
    for dim in plan.dims:
        units, long_name = COORDINATES.get(dim, ("", dim))
        dataset[dim].attrs = {"long_name": long_name, **({"units": units} if units else {})}
    left = len(outcome.left(plan))
    return dataset.assign_attrs(
        title=plan.title,
        kind=plan.kind,
        complete=int(not left and not outcome.failed and not outcome.blocked),
        jobs=len(plan.jobs),
        jobs_done=len(outcome.done),
        jobs_failed=len(outcome.failed),
        jobs_blocked=len(outcome.blocked),
        jobs_open=left,
        jobs_warned=len(outcome.warnings),
        failures=dict(outcome.failed),
        warnings={key: list(texts) for key, texts in outcome.warnings.items()},
        config=_config(plan),
        **plan.attributes,
    )


def write_results(plan: ExperimentPlan, folder: Folder, outcome: Outcome) -> xr.Dataset:
    """Gather the results, replace ``results.zarr`` by them, and return them."""
    dataset = gather(plan, folder, outcome)
    save_dataset(dataset, folder.results)
    return dataset


def open_cell(plan: ExperimentPlan, folder: Folder, run: str) -> StoredRun:
    """Open the recording of a cell."""
    if run in plan.recordings:
        return open_store(plan.recordings[run])
    return open_store(folder.result(run, plan.jobs[run]))


def _config(plan: ExperimentPlan) -> dict[str, Any]:
    """Return the settings of the first training; the others differ little."""
    trainings = (job for job in plan.jobs.values() if isinstance(job, TrainJob))
    first = next(trainings, None)
    return {} if first is None else first.config.model_dump(mode="json")


def _states(plan: ExperimentPlan, outcome: Outcome) -> xr.Dataset:
    shape = tuple(len(values) for values in plan.dims.values())
    jobs = np.full(shape, "", object)
    states = np.full(shape, "none", object)
    for cell in plan.cells:
        at = _place(plan, cell)
        jobs[at], states[at] = cell.run, _state(cell.run, plan, outcome)
    data = {"job": (tuple(plan.dims), jobs), "state": (tuple(plan.dims), states)}
    return xr.Dataset(data, coords=_coordinates(plan))


def _state(run: str, plan: ExperimentPlan, outcome: Outcome) -> str:
    if run in plan.recordings or run in outcome.done:
        return "done"
    if run in outcome.failed:
        return "failed"
    return "blocked" if run in outcome.blocked else "open"


def _trained(plan: ExperimentPlan, folder: Folder, outcome: Outcome) -> xr.Dataset:
    shape = tuple(len(values) for values in plan.dims.values())
    table = {name: np.full(shape, np.nan) for name in NUMBERS}
    for cell in plan.cells:
        if _state(cell.run, plan, outcome) == "done":
            for name, value in final_numbers(open_cell(plan, folder, cell.run)).items():
                table[name][_place(plan, cell)] = value
    dims, known = tuple(plan.dims), {"loss": loss_units({"config": _config(plan)})}
    return xr.Dataset(
        {
            name: (dims, table[name], {"units": known.get(units, units), "long_name": long_name})
            for name, (units, long_name) in NUMBERS.items()
            if not np.isnan(table[name]).all() or name == "accuracy"
        },
        coords=_coordinates(plan),
    )


def final_numbers(stored: StoredRun) -> dict[str, float]:
    """Return the `NUMBERS` of a training that is done, NaN where there is none."""
    attributes, steps = stored.attributes, stored.small("eval_step")
    ended = len(steps) > 0 and int(steps[-1]) == int(stored.steps[-1])
    return {
        "accuracy": float(stored.small("eval_accuracy")[-1]) if ended else math.nan,
        "loss": float(stored.small("eval_loss")[-1]) if ended else math.nan,
        "density": float(attributes.get("density", 1.0)),
        "empty_tensors": float(attributes.get("empty_tensors") or math.nan),
        "effective_std": float(attributes.get("effective_std", math.nan)),
    }


def _measured(plan: ExperimentPlan, folder: Folder, outcome: Outcome) -> xr.Dataset:
    parts: dict[str, list[xr.Dataset]] = {}
    # Texts are empty where a job is not done: they know no missing value, as numbers do.
    empty: dict[Hashable, str] = {}
    for cell in plan.cells:
        job = plan.jobs.get(cell.run)
        if cell.run in outcome.done and isinstance(job, MeasureJob):
            found = xr.open_zarr(folder.result(cell.run, job), chunks=None, consolidated=True)
            texts = {k: v.astype(object) for k, v in found.items() if v.dtype.kind in "TUO"}
            empty |= dict.fromkeys(texts, "")
            part = found.assign(texts).load()
            part = part.expand_dims({dim: [value] for dim, value in cell.at.items()})
            parts.setdefault(job.metric, []).append(part)
    joined: list[xr.Dataset] = [xr.Dataset(coords=_coordinates(plan))]
    for metric, p in parts.items():
        combined = xr.combine_by_coords(p, fill_value=empty, combine_attrs="drop_conflicts")
        part = cast("xr.Dataset", combined)
        names = _taken(metric, part, joined)
        empty |= {new: "" for old, new in names.items() if old in empty}
        joined.append(part.rename(names))
    # What two metrics share over the same dims, such as the evaluations, is the same.
    return xr.merge(
        joined, join="outer", compat="override", fill_value=empty, combine_attrs="drop_conflicts"
    )


def _taken(metric: str, part: xr.Dataset, before: list[xr.Dataset]) -> dict[str, str]:
    """Rename what other metrics have under the same name over other dims."""
    taken = [
        name
        for name, values in part.data_vars.items()
        if any(name in other and other[name].dims != values.dims for other in before)
    ]
    return {str(name): f"{metric}_{name}".replace("-", "_") for name in taken}


def _mask(
    plan: ExperimentPlan, folder: Folder, outcome: Outcome
) -> tuple[xr.DataArray, list[dict[str, Any]]] | None:
    """Stack the masks of a plan that made one series, and all of it."""
    from dask import array
    from dask.delayed import delayed

    others = {name: v for name, v in plan.dims.items() if name not in ("level", "pruning")}
    single = all(len(values) == 1 for values in others.values())
    cells = [cell for cell in plan.cells if cell.at.get("pruning", "imp") == "imp"]
    if plan.kind != "imp" or not single or not cells:
        return None
    if any(_state(cell.run, plan, outcome) != "done" for cell in cells):
        return None
    layout = open_cell(plan, folder, cells[-1].run).layout
    size = layout.parameters
    columns = [
        array.from_delayed(
            delayed(_kept)(str(open_cell(plan, folder, cell.run).path), size), (size,), bool
        )
        for cell in sorted(cells, key=lambda cell: int(cell.at["level"]))
    ]
    stacked = xr.DataArray(
        array.stack(columns, axis=1),
        dims=("param", "level"),
        coords={"level": plan.dims["level"]},
        attrs={"long_name": "which weights are kept"},
    )
    return stacked, layout.to_attributes()["tensors"]


def _kept(path: str, size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = open_store(path).mask()
    return np.ones(size, bool) if mask is None else mask


def _place(plan: ExperimentPlan, cell: Cell) -> tuple[int, ...]:
    return tuple(plan.dims[dim].index(cell.at[dim]) for dim in plan.dims)


def _coordinates(plan: ExperimentPlan) -> dict[str, Any]:
    return {
        dim: np.array(values, object if isinstance(values[0], str) else None)
        for dim, values in plan.dims.items()
    }
