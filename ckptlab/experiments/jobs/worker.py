"""Do jobs in a worker process: read what they need, write each result whole.

Everything passes through the folder, so that another worker can continue a job that was stopped.
"""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt

from ckptlab.analyze.io import save_dataset
from ckptlab.errors import (
    CkptlabError,
    ConfigError,
    LayoutError,
    LockedError,
    StoreError,
    WriteError,
)
from ckptlab.experiments.jobs.context import JobContext, problem_of
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import (
    BranchPoint,
    Job,
    MeasureJob,
    Perturbed,
    TrainJob,
    parse_job,
    write_job,
)
from ckptlab.experiments.jobs.make_mask import make_mask
from ckptlab.experiments.operations.initialisation import drawn_std, fresh_weights, layout_of
from ckptlab.experiments.operations.perturbations import States, effective_std, perturb
from ckptlab.experiments.operations.pruning import (
    density,
    empty_tensors,
    fit,
    full_mask,
)
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.run import open_run
from ckptlab.store.format.layout import Layout
from ckptlab.train.branch import take
from ckptlab.train.data import images_kept
from ckptlab.train.data_root import trusted_roots
from ckptlab.train.initial_state import Start
from ckptlab.train.interleave import train_together
from ckptlab.train.trainer import Request, prepare

LOCK_SECONDS = 20.0
"""How long a job waits for another process that holds its run and may be about to die."""

Mask = npt.NDArray[np.bool_]
Warned = defaultdict[str, list[str]]

# torch's switches are global: two jobs in one process would change each other's.
_one_at_a_time = threading.Lock()


class JobWarning(UserWarning):
    """Something about a job that its result does not show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """How a job ended: its error, if it failed, and its warnings."""

    key: str
    error: str | None
    warnings: tuple[str, ...]


def run_jobs(tasks: Sequence[tuple[str, str]], context: JobContext) -> list[JobResult]:
    """Run jobs at once, or what is left of them; `tasks` are ids and what `write_job` wrote."""
    folder, warned = Folder(context.folder), Warned(list)
    # Images are read once for all jobs of this process that share them.
    with _one_at_a_time, images_kept():
        context.trust()
        failures = _run({key: parse_job(text) for key, text in tasks}, folder, context, warned)
    for key, texts in warned.items():
        folder.write_warnings(key, texts)
    return [
        JobResult(
            key=key,
            error=None if key not in failures else reason(failures[key]),
            warnings=folder.warnings(key),
        )
        for key, _ in tasks
    ]


def reason(error: BaseException) -> str:
    """Return in one line what a job failed of."""
    return str(error) if isinstance(error, CkptlabError) else f"{type(error).__name__}: {error}"


def _run(
    jobs: Mapping[str, Job], folder: Folder, context: JobContext, warned: Warned
) -> dict[str, Exception]:
    failures: dict[str, Exception] = {}
    trainings: dict[str, TrainJob] = {}
    for key, job in jobs.items():
        if folder.is_done(key, job):
            continue
        warned[key] = []
        if isinstance(job, TrainJob):
            trainings[key] = job
            continue
        try:
            with _caught([key], warned):
                _measure(job, folder.result(key, job), context)
        except Exception as error:
            failures[key] = error
    return failures | _train(trainings, folder, context, warned)


@contextmanager
def _caught(keys: Sequence[str], warned: Warned) -> Iterator[None]:
    """Keep ckptlab's own warnings for the jobs that raise them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for found in caught:
                if found.category.__module__.startswith("ckptlab."):
                    for key in keys:
                        warned[key].append(str(found.message))


def _measure(job: MeasureJob, path: Path, context: JobContext) -> None:
    options = dict(job.options)
    if job.other is not None:
        options["other"] = context.open(job.other)
    run = open_run(context.open(job.run).path)
    # On the cluster's scheduler, dask would wait for the one thread of this worker. The user has
    # planned these runs, and so where their data lie.
    with dask.config.set(scheduler="threads"), trusted_roots():
        result = run.analyze(job.metric, **options)
    save_dataset(result, path)


def _train(
    jobs: Mapping[str, TrainJob], folder: Folder, context: JobContext, warned: Warned
) -> dict[str, Exception]:
    """Train until each job is done or has failed for good."""
    failures: dict[str, Exception] = {}
    deadline = time.monotonic() + LOCK_SECONDS
    left = dict(jobs)
    while left:
        requests: dict[str, Request] = {}
        failed: dict[str, Exception] = {}
        for key, job in left.items():
            try:
                with _caught([key], warned):
                    request = _request(key, job, folder.result(key, job), context)
            except Exception as error:
                failed[key] = error
            else:
                requests |= {} if request is None else {key: request}
        with _caught(list(requests), warned):
            ended = train_together(list(requests.values()))
        failed |= {k: e for k, e in zip(requests, ended, strict=True) if e is not None}
        again = {}
        for key, failure in failed.items():
            path = folder.result(key, left[key])
            waits = isinstance(failure, LockedError) and time.monotonic() < deadline
            resumed = key in requests and requests[key].resume
            with _caught([key], warned):
                retried = waits or (resumed and _drop(path, failure))
            if retried:
                again[key] = left[key]
            else:
                failures[key] = failure
        left = again
        if left:
            time.sleep(0.5)
    return failures


def _drop(path: Path, error: Exception) -> bool:
    """Delete a run that cannot be resumed: begun on another machine, say, or damaged."""
    if isinstance(error, LockedError | WriteError):
        return False
    if not isinstance(error, ConfigError | LayoutError | StoreError):
        return False
    warnings.warn(f"{path} is trained anew: {error}", JobWarning, stacklevel=2)
    shutil.rmtree(path)
    return True


def _request(key: str, job: TrainJob, path: Path, context: JobContext) -> Request | None:
    start, mask, about = _beginning(job, context)
    about["job"] = {"id": key, "description": write_job(job)}
    settings: dict[str, Any] = {
        "start": start,
        "mask": mask,
        "problem": problem_of(job.config),
        "attributes": about,
    }
    if path.exists():
        try:
            return prepare(job.config, str(path), resume=True, **settings)
        except (ConfigError, LayoutError, StoreError) as error:
            if not _drop(path, error):
                raise
    return prepare(job.config, str(path), **settings)


def _beginning(
    job: TrainJob, context: JobContext
) -> tuple[Start | None, Mask | None, dict[str, Any]]:
    """Return what a training begins from, its mask, and attributes that describe them."""
    about: dict[str, Any] = {}
    start = None if job.source is None else _start(job, job.source, context)
    if start is not None and start.mask is not None and job.mask is None:
        raise ConfigError("a job that begins from a sparse run must say which mask it keeps")
    if job.mask is None:
        layout = None if start is None else start.layout
        mask = None if layout is None else full_mask(layout)
    else:
        mask, layout = make_mask(job, job.mask, context)
        about |= _describe_mask(mask, layout)
    if job.perturbation is not None:
        if job.source is None or start is None or mask is None or layout is None:
            raise ConfigError("a perturbation needs a source")
        kept = fit(mask, layout, start.layout)
        states = _states(job, job.source, job.perturbation, start, kept, context)
        kind = parse_kind(job.perturbation.kind)
        generator = np.random.default_rng(job.perturbation.seed)
        weights = perturb(states, kind, generator)
        about["effective_std"] = effective_std(states, weights)
        start = replace(start, vectors={**start.vectors, "weights": weights})
    if job.mask is None or mask is None or layout is None:
        return start, None, about
    return start, fit(mask, layout, layout_of(job.config)), about


def _describe_mask(mask: Mask, layout: Layout) -> dict[str, Any]:
    share, empty = density(mask, layout), empty_tensors(mask, layout)
    if not share:
        warnings.warn(
            "pruning left no weight at all: only biases and batch norm are trained",
            JobWarning,
            stacklevel=2,
        )
    return {"density": share, "empty_tensors": len(empty)}


def _start(job: TrainJob, source: BranchPoint, context: JobContext) -> Start:
    stored = context.open(source.run)
    fresh = source.optimizer == "fresh"
    # The state is exact in any case; whether the job has the run's threads is the user's choice.
    start = take(
        stored, source.step, job.config, at=source.at, fresh_optimizer=fresh, going_on=False
    )
    return replace(start, origin={**start.origin, "id": source.run})


def _states(
    job: TrainJob,
    source: BranchPoint,
    perturbed: Perturbed,
    start: Start,
    mask: Mask,
    context: JobContext,
) -> States:
    kind, initial = parse_kind(perturbed.kind), None
    if kind.needs("0"):
        # A branch's step 0 lies in the run it left.
        stored = context.open(perturbed.initial or source.run)
        initial = stored.snapshot(int(stored.attributes.get("start_step", 0)))
    return States(
        now=start.vectors["weights"],
        initial=initial,
        fresh=fresh_weights(job.config, perturbed.fresh_seed) if kind.needs("fresh") else None,
        mask=mask,
        layout=start.layout,
        sigma=drawn_std(job.config) if perturbed.sigma == "drawn" else None,
    )
