"""Hold what jobs of one process share: where everything lies, and what they learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptlab.plugins import load_plugin
from ckptlab.problems.problem import Problem
from ckptlab.registry import allow
from ckptlab.store.read.reader import StoredRun, open_store
from ckptlab.train.config import Config
from ckptlab.train.numerics import resolve_device
from ckptlab.train.problem_build import build_problem


@dataclass(frozen=True, kw_only=True, slots=True)
class JobContext:
    """Where jobs find what they need: the experiment's folder and recordings by id.

    `plugins` are files to load and `allowed` the names of code that the user wrote; a worker
    imports no other code, whatever a run's attributes name.
    """

    folder: str
    recordings: Mapping[str, str]
    plugins: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    def trust(self) -> None:
        """Load the plug-ins, and let what the user wrote be imported in this process."""
        for file in self.plugins:
            load_plugin(file)
        for name in self.allowed:
            allow(name)

    def open(self, run: str) -> StoredRun:
        """Open a recording or the result of a training job by its id."""
        if run in self.recordings:
            return open_store(self.recordings[run])
        return open_store(Path(self.folder) / "jobs" / f"{run.removeprefix('job:')}.zarr")


def problem_of(config: Config) -> Problem:
    """Build what a job learns, and read it, so that missing data fail this job alone."""
    problem = build_problem(config, resolve_device(config.train))
    problem.train.at(0)
    return problem
