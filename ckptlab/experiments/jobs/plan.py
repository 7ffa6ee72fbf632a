"""Plan an experiment: jobs that need each other, and where their results go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptlab.experiments.jobs.job import Job, ids_in, job_id, run_id
from ckptlab.store.read.reader import StoredRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One result: its coordinates, by dim, and the id of the job or recording that gives it."""

    at: Mapping[str, Any]
    run: str


@dataclass(kw_only=True, slots=True)
class ExperimentPlan:
    """Jobs and cells of an experiment.

    `jobs` holds each job behind those it needs, `recordings` the paths of what they read, both by
    id; `dims` are the coordinates of the results and `attributes` go into them (JSON).
    """

    title: str
    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    recordings: dict[str, str] = field(default_factory=dict)
    dims: dict[str, list[Any]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def add(self, job: Job) -> str:
        """Add a job unless it is there already, and return its id."""
        key = job_id(job)
        self.jobs.setdefault(key, job)
        return key

    def add_recording(self, stored: StoredRun) -> str:
        """Add a recording, and return its id."""
        key = run_id(stored)
        self.recordings[key] = stored.path
        return key

    def put(self, run: str, **at: Any) -> None:
        """Place the result of a run; a new coordinate is added to its dim."""
        for dim, value in at.items():
            values = self.dims.setdefault(dim, [])
            if value not in values:
                values.append(value)
        self.cells.append(Cell(at=at, run=run))

    def needs(self, key: str) -> set[str]:
        """Return the ids of the jobs that must be done before one."""
        return {run for run in ids_in(self.jobs[key]) if run in self.jobs}

    def depths(self) -> dict[str, int]:
        """Return how long the chain of jobs behind each is; the deepest should begin first."""
        depths = dict.fromkeys(self.jobs, 0)
        for key in reversed(self.jobs):
            for needed in self.needs(key):
                depths[needed] = max(depths[needed], depths[key] + 1)
        return depths
