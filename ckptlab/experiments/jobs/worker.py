"""Doing one job, in a worker process: what it needs is read, its result is written whole.

Everything passes through the folder, so that a
job that was half done is taken up again wherever it is done next.
"""

from __future__ import annotations

import functools
import shutil
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import torch

from ckptlab.analyze.io import save_dataset
from ckptlab.errors import (
    CkptlabError,
    ConfigError,
    LayoutError,
    LockedError,
    StoreError,
    WriteError,
)
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import (
    GivenMask,
    Job,
    MaskOf,
    MeasureJob,
    Perturbed,
    Pruning,
    Source,
    TrainJob,
    parse_job,
    write_job,
)
from ckptlab.experiments.operations.initialisation import fresh_weights, layout_of
from ckptlab.experiments.operations.perturbations import States, effective_std, perturb
from ckptlab.experiments.operations.pruning import (
    density,
    fit,
    full_mask,
    prune_magnitude,
    prune_random,
)
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.run import open_run
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.reader import StoredRun, open_store
from ckptlab.train.branch import take
from ckptlab.train.data import Data, load_data
from ckptlab.train.data_root import trusted_roots
from ckptlab.train.datasets.registry import DataConfig
from ckptlab.train.initial_state import Start
from ckptlab.train.interleave import train_together
from ckptlab.train.numerics import resolve_device
from ckptlab.train.trainer import Request, prepare

LOCK_SECONDS = 20.0
"""How long a job waits for the process that held its run before, which may be about to die."""

Mask = npt.NDArray[np.bool_]

# torch's switches are those of a process: two jobs in one would change each other's.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a job finds what it needs.

    Parameters
    ----------
    folder : str
        Of the experiment.
    recordings : mapping of str to str
        Paths of recordings by id.
    """

    folder: str
    recordings: Mapping[str, str]

    def open(self, run: str) -> StoredRun:
        """Open a recording or the result of a training job by its id."""
        if run in self.recordings:
            return open_store(self.recordings[run])
        return open_store(Path(self.folder) / "jobs" / f"{run.removeprefix('job:')}.zarr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a job ended.

    Parameters
    ----------
    key : str
        Its id.
    error : str or None
        What it failed of.
    warnings : tuple of str
        To pass on.
    """

    key: str
    error: str | None
    warnings: tuple[str, ...]


def perform(tasks: Sequence[tuple[str, str]], place: Place) -> list[Result]:
    """Do some jobs at once, or what is left of them.

    Parameters
    ----------
    tasks : sequence of (str, str)
        Ids and descriptions, as `spec.write_job` writes them.
    place : Place
        Where they find what they need, and leave their results.

    Returns
    -------
    list of Result
        How each ended.
    """
    with _one_at_a_time, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        failures = _do({key: parse_job(text) for key, text in tasks}, place)
    kept = {str(w.message): w for w in caught if w.category.__module__.startswith("ckptlab.exp")}
    return [
        Result(
            key=key,
            error=None if key not in failures else reason(failures[key]),
            warnings=tuple(kept),
        )
        for key, _ in tasks
    ]


def reason(error: BaseException) -> str:
    """Say in a line what a job failed of."""
    return str(error) if isinstance(error, CkptlabError) else f"{type(error).__name__}: {error}"


def _do(jobs: Mapping[str, Job], place: Place) -> dict[str, Exception]:
    folder = Folder(place.folder)
    failures: dict[str, Exception] = {}
    trainings: dict[str, TrainJob] = {}
    for key, job in jobs.items():
        if folder.is_done(key, job):
            continue
        if isinstance(job, TrainJob):
            trainings[key] = job
            continue
        try:
            _measure(job, folder.result(key, job), place)
        except Exception as error:
            failures[key] = error
    return failures | _train(trainings, folder, place)


def _measure(job: MeasureJob, path: Path, place: Place) -> None:
    options = dict(job.options)
    if job.other is not None:
        options["other"] = place.open(job.other)
    run = open_run(place.open(job.run).path)
    # In a worker dask would hand its tasks to the cluster, and wait for the one thread it waits in.
    # The user has planned the runs of the experiment, and so where their data lie.
    with dask.config.set(scheduler="threads"), trusted_roots():
        result = run.analyze(job.metric, **options)
    save_dataset(result, path)


def _train(jobs: Mapping[str, TrainJob], folder: Folder, place: Place) -> dict[str, Exception]:
    """Train until each is done or has failed for good."""
    failures: dict[str, Exception] = {}
    deadline = time.monotonic() + LOCK_SECONDS
    left = dict(jobs)
    while left:
        requests: dict[str, Request] = {}
        failed: dict[str, Exception] = {}
        for key, job in left.items():
            try:
                request = _request(key, job, folder.result(key, job), place)
            except Exception as error:
                failed[key] = error
            else:
                requests |= {} if request is None else {key: request}
        ended = train_together(list(requests.values()))
        failed |= {k: e for k, e in zip(requests, ended, strict=True) if e is not None}
        again = {}
        for key, failure in failed.items():
            path = folder.result(key, left[key])
            waits = isinstance(failure, LockedError) and time.monotonic() < deadline
            resumed = key in requests and requests[key].resume
            if waits or (resumed and _begin_again(path, failure)):
                again[key] = left[key]
            else:
                failures[key] = failure
        left = again
        if left:
            time.sleep(0.5)
    return failures


def _begin_again(path: Path, error: Exception) -> bool:
    """Drop a run that can not be taken up: begun on another machine, say, or damaged."""
    if isinstance(error, LockedError | WriteError):
        return False
    if not isinstance(error, ConfigError | LayoutError | StoreError):
        return False
    warnings.warn(f"{path} is begun again: {error}", JobWarning, stacklevel=2)
    shutil.rmtree(path)
    return True


class JobWarning(UserWarning):
    """Something of a job that its results do not show."""


def _request(key: str, job: TrainJob, path: Path, place: Place) -> Request | None:
    start, mask, about = _beginning(job, place)
    about["job"] = {"id": key, "description": write_job(job)}
    settings: dict[str, Any] = {
        "start": start,
        "mask": mask,
        "data": _data(job.config.data, resolve_device(job.config.train)),
        "attributes": about,
    }
    if path.exists():
        try:
            return prepare(job.config, str(path), resume=True, **settings)
        except (ConfigError, LayoutError, StoreError) as error:
            if not _begin_again(path, error):
                raise
    return prepare(job.config, str(path), **settings)


def _beginning(job: TrainJob, place: Place) -> tuple[Start | None, Mask | None, dict[str, Any]]:
    """Put together what a training begins from, and what its results will say of that."""
    about: dict[str, Any] = {}
    start = None if job.source is None else _start(job, job.source, place)
    if start is not None and start.mask is not None and job.mask is None:
        raise ConfigError("a job that begins from a sparse run must say which mask it keeps")
    if job.mask is None:
        layout = None if start is None else start.layout
        mask = None if layout is None else full_mask(layout)
    else:
        mask, layout = _mask(job, job.mask, place)
        about["density"] = density(mask, layout)
    if job.perturbation is not None:
        if job.source is None or start is None or mask is None or layout is None:
            raise ConfigError("a perturbation needs a source")
        kept = fit(mask, layout, start.layout)
        states = _states(job, job.source, job.perturbation, start, kept, place)
        kind = parse_kind(job.perturbation.kind)
        generator = np.random.default_rng(job.perturbation.seed)
        weights = perturb(states, kind, generator)
        about["effective_std"] = effective_std(states, weights)
        start = replace(start, vectors={**start.vectors, "weights": weights})
    if job.mask is None or mask is None or layout is None:
        return start, None, about
    return start, fit(mask, layout, layout_of(job.config)), about


def _start(job: TrainJob, source: Source, place: Place) -> Start:
    stored = place.open(source.run)
    fresh = source.optimizer == "fresh"
    # The state is exact in any case; whether the job has the run's threads is the user's choice.
    start = take(
        stored, source.step, job.config, at=source.at, fresh_optimizer=fresh, going_on=False
    )
    return replace(start, origin={**start.origin, "id": source.run})


def _mask(job: TrainJob, mask: Pruning | GivenMask | MaskOf, place: Place) -> tuple[Mask, Layout]:
    if isinstance(mask, GivenMask):
        layout = layout_of(job.config)
        return Folder(place.folder).mask(mask.digest, layout.parameters), layout
    stored = place.open(mask.run)
    layout, before = stored.layout, stored.mask()
    before = full_mask(layout) if before is None else before
    if isinstance(mask, MaskOf):
        return before, layout
    amount: dict[str, Any] = {"fraction": mask.fraction, "levels": mask.levels, "scope": mask.scope}
    if mask.method == "random":
        generator = np.random.default_rng(mask.seed)
        return prune_random(before, layout, generator, **amount), layout
    weights = stored.snapshot(int(stored.steps[-1]))
    return prune_magnitude(weights, before, layout, **amount), layout


def _states(
    job: TrainJob, source: Source, perturbed: Perturbed, start: Start, mask: Mask, place: Place
) -> States:
    stored, kind = place.open(source.run), parse_kind(perturbed.kind)
    first = int(stored.attributes.get("start_step", 0))
    return States(
        now=start.vectors["weights"],
        initial=stored.snapshot(first) if kind.needs("0") else None,
        fresh=fresh_weights(job.config, perturbed.fresh_seed) if kind.needs("fresh") else None,
        mask=mask,
        layout=start.layout,
    )


@functools.lru_cache(maxsize=1)
def _data(config: DataConfig, device: torch.device) -> Data:
    """Read the data set once for the jobs of a process that share it."""
    return load_data(config, device)
