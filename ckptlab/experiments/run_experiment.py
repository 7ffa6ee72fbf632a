"""Run an experiment: lock its folder, run its jobs, gather its results."""

from __future__ import annotations

import time
from dataclasses import dataclass

import xarray as xr

from ckptlab.experiments.jobs.cluster import count_gpus, open_client
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import write_job
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.scheduler import OnChange, Outcome, read_outcome, run_plan
from ckptlab.experiments.results.gather import write_results
from ckptlab.record.defaults import TOGETHER

GATHER_SECONDS = 10.0
"""Least time between two gatherings while jobs are running."""

GATHER_SHARE = 0.02
"""Largest share of the time that gathering takes from the jobs' cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workforce:
    """Workers: those of a cluster's `scheduler`, or so many local processes.

    `threads` is what each job computes with, `together` how many trainings a worker runs at once;
    by default several on a local GPU, else one.
    """

    scheduler: str | None = None
    workers: int | None = None
    threads: int = 1
    together: int | None = None


def run_experiment(
    plan: ExperimentPlan,
    folder: Folder,
    workforce: Workforce,
    *,
    retry_failed: bool = False,
    on_change: OnChange | None = None,
) -> tuple[Outcome, xr.Dataset]:
    """Run what is left of an experiment, and write its results to ``results.zarr``.

    `on_change` is called at the beginning and whenever a job has ended. LockedError if another
    process runs an experiment in the folder; ConfigError if workers are missing or go away, while
    what is done stays.
    """
    folder.make()
    lock = folder.lock()
    try:
        outcome = read_outcome(plan, folder, retry_failed=retry_failed)
        folder.write_json("plan.json", as_json(plan))
        results = write_results(plan, folder, outcome)
        if on_change is not None:
            on_change(outcome)
        if outcome.left(plan):
            gatherer = _Gatherer(plan, folder, on_change)
            try:
                with open_client(
                    workforce.scheduler, workforce.workers, workforce.threads
                ) as client:
                    run_plan(
                        plan,
                        folder,
                        client,
                        retry_failed=retry_failed,
                        together=_together(workforce),
                        on_change=gatherer,
                    )
            finally:
                # Also after an error or an interrupt: the folder knows what was done.
                outcome = read_outcome(plan, folder)
                results = write_results(plan, folder, outcome)
        return outcome, results
    finally:
        lock.release()


def as_json(plan: ExperimentPlan) -> dict[str, object]:
    """Return a plan as JSON, for people and for other programs."""
    return {
        "title": plan.title,
        "kind": plan.kind,
        "attributes": plan.attributes,
        "recordings": plan.recordings,
        "jobs": {key: write_job(job) for key, job in plan.jobs.items()},
        "cells": [{"at": dict(cell.at), "run": cell.run} for cell in plan.cells],
    }


def _together(workforce: Workforce) -> int:
    if workforce.together is not None:
        return workforce.together
    return TOGETHER if workforce.scheduler is None and count_gpus() else 1


class _Gatherer:
    """Gathers results now and then while jobs end."""

    def __init__(self, plan: ExperimentPlan, folder: Folder, on_change: OnChange | None) -> None:
        self._plan = plan
        self._folder = folder
        self._on_change = on_change
        self._next = time.monotonic() + GATHER_SECONDS

    def __call__(self, outcome: Outcome) -> None:
        began = time.monotonic()
        if began > self._next:
            write_results(self._plan, self._folder, outcome)
            took = time.monotonic() - began
            self._next = began + max(GATHER_SECONDS, took / GATHER_SHARE)
        if self._on_change is not None:
            self._on_change(outcome)
