"""A tiny dense run, and what experiments on it are made of."""

from __future__ import annotations

from pathlib import Path

from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import Job, write_job
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.worker import JobContext, run_jobs
from ckptlab.experiments.plans.parent_run import Parent, recorded_parent
from ckptlab.store.read.reader import StoredRun, open_store
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train

SETTINGS = [
    "model.name=resnet8",
    "model.width=2",
    "data.name=synthetic",
    "data.image_size=8",
    "data.samples=96",
    "train.batch_size=32",
    "train.steps=48",
    "train.device=cpu",
    "train.threads=1",
    "record.fsync=false",
    "eval.steps=none",
]
STEPS = 48


def record_dense(path: Path, *overrides: str) -> str:
    """Train the dense network."""
    train(load_config(overrides=[*SETTINGS, *overrides]), str(path))
    return str(path)


class Bench:
    """A plan on one recording, whose jobs are done here, one after the other."""

    def __init__(
        self, path: str, folder: Path, *overrides: str, replicates: int = 1, kind: str = "imp"
    ) -> None:
        self.plan = ExperimentPlan(title="test", kind=kind)
        self.stored = open_store(path)
        self.folder = Folder(folder)
        self.folder.make()
        self.parents: list[Parent] = [
            recorded_parent(self.plan, self.stored, overrides, threads=1, replicate=r)
            for r in range(replicates)
        ]

    @property
    def parent(self) -> Parent:
        return self.parents[0]

    @property
    def place(self) -> JobContext:
        return JobContext(folder=str(self.folder.path), recordings=self.plan.recordings)

    def do(self, job: Job) -> StoredRun:
        """Do one job, and open what it recorded."""
        key = self.plan.add(job)
        do(self, key)
        return self.open(key)

    def do_all(self) -> None:
        """Do every job of the plan."""
        for key in self.plan.jobs:
            do(self, key)

    def open(self, key: str) -> StoredRun:
        """Open what a job recorded."""
        return open_store(self.folder.result(key, self.plan.jobs[key]))


def do(bench: Bench, key: str) -> None:
    """Do one job; AssertionError says what it failed of."""
    (result,) = run_jobs([(key, write_job(bench.plan.jobs[key]))], bench.place)
    assert result.error is None, result.error
