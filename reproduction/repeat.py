"""Repeat a study after a tenth of its jobs was deleted: every job must have the bits it had."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import MeasureJob
from ckptlab.experiments.run_experiment import Workforce, run_experiment
from ckptlab.store.read.reader import open_store
from reproduction import rows
from reproduction.figures import RESULTS, Figure
from reproduction.run import source

SHARE = 0.1
"""Of the jobs that are deleted, at least one."""


def repeat(only: Sequence[str], folder: Path, overrides: tuple[str, ...]) -> int:
    """Do a study, delete some of its jobs, do it again, and compare; 1 if a bit differs.

    `only` is the study's file under ``examples/``, and its scale.
    """
    if len(only) != 2:
        raise ConfigError(
            "repeat takes a study and its scale, such as: repeat critical_period.toml small"
        )
    file, scale = only
    figure = Figure(file, scale, title="")
    plan, place = figure.plan(overrides), Folder(folder)
    run_experiment(plan, place, Workforce(workers=2))
    before = {key: _digest(place.result(key, job), job) for key, job in plan.jobs.items()}
    count = max(round(SHARE * len(plan.jobs)), 1)
    deleted = random.Random(0).sample(sorted(plan.jobs), count)
    for key in deleted:
        shutil.rmtree(place.result(key, plan.jobs[key]))
    _, results = run_experiment(plan, place, Workforce(workers=2))
    after = {key: _digest(place.result(key, job), job) for key, job in plan.jobs.items()}
    differ = [key for key in plan.jobs if before[key] != after[key]]
    changed = f" with {', '.join(overrides)}" if overrides else ""
    told = (
        f"Repeated: `examples/{figure.file} --scale {figure.scale}`{changed}, "
        f"{len(plan.jobs)} jobs; {count} were deleted and done again: "
        + (f"{len(differ)} jobs differ." if differ else "equal bits in every snapshot and number.")
    )
    print(told)
    rows.write(
        RESULTS / "repeat.json",
        {"told": told, "source": source(), "deleted": deleted, "differ": differ, "rows": []},
    )
    return int(bool(differ) or int(results.attrs["jobs_open"]) > 0)


def _digest(path: Path, job: Any) -> str:
    """Return a hash of every snapshot and evaluation of a job, or of what it measured."""
    found = xxhash.xxh3_64()
    if isinstance(job, MeasureJob):
        import xarray as xr

        with xr.open_zarr(path, chunks=None, consolidated=True) as dataset:
            for name in sorted(map(str, dataset.variables)):
                values = dataset[name].values
                text = values.dtype == object
                found.update(str(values.tolist()).encode() if text else values.tobytes())
        return found.hexdigest()
    run = open_store(path)
    for name in ("eval_step", "eval_accuracy", "eval_loss"):
        found.update(np.ascontiguousarray(run.small(name)).tobytes())
    for step in run.steps:
        found.update(run.snapshot(int(step)).tobytes())
    return found.hexdigest()
