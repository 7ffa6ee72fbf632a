"""Conducting an experiment: its folder is locked, its jobs are run, its results are gathered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import xarray as xr

from ckptlab.experiments.jobs.cluster import count_gpus, open_client
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import write_job
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.jobs.scheduler import Outcome, execute, survey
from ckptlab.experiments.results.gather import write_results

TOGETHER = 8
"""Trainings that a GPU does at once unless told otherwise."""

GATHER_SECONDS = 10.0
"""Results are gathered at most this often while jobs are running."""

GATHER_SHARE = 0.02
"""Gathering takes at most this share of the time, on cores that jobs need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workforce:
    """Who does the jobs.

    Parameters
    ----------
    scheduler : str or None
        Address of a cluster; None starts workers here.
    workers : int or None
        How many are started here.
    threads : int
        Threads each job computes with.
    together : int or None
        Trainings a worker does at once; by default several on a GPU of this machine, else one.
    """

    scheduler: str | None = None
    workers: int | None = None
    threads: int = 1
    together: int | None = None


def conduct(
    plan: Plan,
    folder: Folder,
    workforce: Workforce,
    *,
    retry_failed: bool = False,
    on_change: Callable[[Outcome], None] | None = None,
) -> tuple[Outcome, xr.Dataset]:
    """Do what is left of an experiment and gather its results.

    Parameters
    ----------
    plan : Plan
        The experiment.
    folder : Folder
        Where it lies.
    workforce : Workforce
        Who does the jobs.
    retry_failed : bool
        Do jobs again that failed the last time.
    on_change : callable, optional
        Called with the `Outcome` at the beginning, and whenever a job has ended.

    Returns
    -------
    outcome : Outcome
        How the jobs stand.
    results : Dataset
        What was written to ``results.zarr``.

    Raises
    ------
    LockedError
        If another process conducts an experiment in the folder.
    ConfigError
        If there are no workers, or they go away; what is done stays.
    """
    folder.make()
    lock = folder.lock()
    try:
        outcome = survey(plan, folder, retry_failed=retry_failed)
        folder.write_document("plan.json", describe(plan))
        results = write_results(plan, folder, outcome)
        if on_change is not None:
            on_change(outcome)
        if outcome.left(plan):
            gatherer = _Gatherer(plan, folder, on_change)
            try:
                with open_client(
                    workforce.scheduler, workforce.workers, workforce.threads
                ) as client:
                    outcome = execute(
                        plan,
                        folder,
                        client,
                        retry_failed=retry_failed,
                        together=_together(workforce),
                        on_change=gatherer,
                    )
            finally:
                # Whatever ended it, what was done is to be seen.
                outcome = survey(plan, folder)
                results = write_results(plan, folder, outcome)
        return outcome, results
    finally:
        lock.release()


def describe(plan: Plan) -> dict[str, object]:
    """Write a plan as JSON, for people and for other programs."""
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

    def __init__(
        self, plan: Plan, folder: Folder, on_change: Callable[[Outcome], None] | None
    ) -> None:
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
