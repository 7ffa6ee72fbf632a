"""Run the jobs of a plan: each once, what it needs first; failures are kept while the rest go on.

Only the folder knows what is done, so the next driver replaces one that was killed.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.context import JobContext
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import TrainJob, write_job
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.worker import JobResult, reason, run_jobs
from ckptlab.plugins import VARIABLE
from ckptlab.registry import allowed
from ckptlab.train.interleave import SHARED


@dataclass(kw_only=True, slots=True)
class Outcome:
    """State of a plan's jobs, by id: `failed` maps to errors, `blocked` jobs need a failed one.

    `warnings` maps the jobs that are done or failed with a warning to their texts.
    """

    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def left(self, plan: ExperimentPlan) -> list[str]:
        """Return the ids of the jobs that are still to be done."""
        settled = self.done | set(self.failed) | self.blocked
        return [key for key in plan.jobs if key not in settled]


OnChange = Callable[[Outcome], object]

LOOK_SECONDS = 2.0
"""How often new workers are looked for while no job ends."""


def read_outcome(plan: ExperimentPlan, folder: Folder, *, retry_failed: bool = False) -> Outcome:
    """Read the state of a plan's jobs from its folder; `retry_failed` counts failures as open."""
    outcome = Outcome()
    for key, job in plan.jobs.items():
        failure = None if retry_failed else folder.failure(key)
        if folder.is_done(key, job):
            outcome.done.add(key)
        elif failure is not None:
            outcome.failed[key] = failure
        else:
            continue
        texts = folder.warnings(key)
        if texts:
            outcome.warnings[key] = texts
    _block(plan, outcome)
    return outcome


def run_plan(
    plan: ExperimentPlan,
    folder: Folder,
    client: Any,
    *,
    retry_failed: bool = False,
    together: int = 1,
    on_change: OnChange | None = None,
) -> Outcome:
    """Run what is left of a plan on the workers of a `distributed.Client`.

    The caller holds the folder's lock. `together` trainings run at once on each worker, which pays
    on a GPU; `on_change` is called whenever a job has ended. ConfigError if the workers do not see
    the folder or the scheduler goes away; what is done stays.
    """
    outcome = read_outcome(plan, folder, retry_failed=retry_failed)
    if outcome.left(plan):
        _require_shared(folder, client)
        _Driver(plan, folder, client, outcome, on_change, together).run()
    return outcome


class _Driver:
    """Submits jobs to the workers as soon as what they need is done."""

    def __init__(
        self,
        plan: ExperimentPlan,
        folder: Folder,
        client: Any,
        outcome: Outcome,
        on_change: OnChange | None,
        together: int,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._client = client
        self._outcome = outcome
        self._on_change = on_change
        self._depths = plan.depths()
        self._together = together
        self._running: dict[Any, list[str]] = {}
        self._context = job_context(plan, folder)

    def run(self) -> None:
        from distributed import CancelledError

        try:
            self._submit()
            while self._outcome.left(self._plan):
                ended = self._wait()
                for future in ended:
                    self._settle(future)
                # Before the change is shown, so that no worker idles meanwhile.
                self._submit()
                if ended and self._on_change is not None:
                    self._on_change(self._outcome)
        except CancelledError as error:
            raise _gone() from error
        finally:
            # Interrupted, or the scheduler is gone: nothing more may start.
            self._client.cancel(list(self._running), force=True)

    def _wait(self) -> set[Any]:
        from distributed import wait

        if not self._running:
            # All workers have died and are being restarted.
            time.sleep(LOOK_SECONDS)
            return set()
        try:
            with self._client.as_current():
                done = wait(list(self._running), LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return set()
        return set(done)

    def _submit(self) -> None:
        """Give each idle worker its next job.

        Jobs take minutes and wait here for the next free worker: dask would assign all of them at
        once, evenly by number, and correct that late.
        """
        running = {key for keys in self._running.values() for key in keys}
        ready = [
            key
            for key in self._outcome.left(self._plan)
            if key not in running and self._plan.needs(key) <= self._outcome.done
        ]
        try:
            workers = len(self._client.nthreads())
        except OSError as error:  # only here: elsewhere an OSError may be a full disk
            raise _gone() from error
        free = workers - len(self._running)
        for keys in itertools.islice(self._bundles(ready, workers), max(free, 0)):
            future = self._client.submit(
                run_jobs,
                [(key, write_job(self._plan.jobs[key])) for key in keys],
                self._context,
                key=f"{keys[0]}-{id(self)}",
                pure=False,
            )
            self._running[future] = keys

    def _bundles(self, ready: list[str], workers: int) -> Iterator[list[str]]:
        """Bundle trainings that one worker runs at once, and spread the bundles evenly."""
        alike: dict[object, list[str]] = {}
        # Long chains first, or they would be left at the end.
        for key in sorted(ready, key=lambda key: -self._depths[key]):
            job = self._plan.jobs[key]
            if self._together > 1 and isinstance(job, TrainJob):
                train = job.config.train
                kind = tuple(getattr(train, name) for name in SHARED)
                alike.setdefault((kind, job.config.problem, job.config.data), []).append(key)
            else:
                yield [key]
        for keys in alike.values():
            size = min(self._together, -(-len(keys) // max(workers, 1)))
            yield from (keys[i : i + size] for i in range(0, len(keys), size))

    def _settle(self, future: Any) -> None:
        keys = self._running.pop(future)
        if future.status == "cancelled":
            raise _gone()
        results: list[JobResult]
        if future.status == "error":
            died = _died(future.exception())
            results = [JobResult(key=key, error=died, warnings=()) for key in keys]
        else:
            results = future.result()
        for result in results:
            if result.warnings:
                self._outcome.warnings[result.key] = result.warnings
            if result.error is None:
                self._folder.forget_failure(result.key)
                self._outcome.done.add(result.key)
            else:
                self._folder.write_failure(result.key, result.error)
                self._outcome.failed[result.key] = result.error
        _block(self._plan, self._outcome)


def _block(plan: ExperimentPlan, outcome: Outcome) -> None:
    for key in plan.jobs:
        if key not in outcome.done and plan.needs(key) & (set(outcome.failed) | outcome.blocked):
            outcome.blocked.add(key)


def job_context(plan: ExperimentPlan, folder: Folder) -> JobContext:
    """Tell workers where everything lies, and which code of the user's they may import."""
    return JobContext(
        folder=str(folder.path.absolute()),
        recordings={
            key: path if "://" in path else str(Path(path).absolute())
            for key, path in plan.recordings.items()
        },
        plugins=tuple(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))),
        allowed=tuple(sorted(allowed())),
    )


def _died(error: BaseException) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "its worker died at every attempt; it may lack memory"
    return reason(error)


def _gone() -> ConfigError:
    return ConfigError(
        "the scheduler went away; what is done is kept, run the same command again for the rest"
    )


def _require_shared(folder: Folder, client: Any) -> None:
    folder.make()
    seen: Mapping[str, bool] = client.run(_sees, str(folder.path.absolute()))
    blind = [address for address, sees in seen.items() if not sees]
    if blind:
        raise ConfigError(
            f"the worker at {blind[0]} does not see {folder.path}; put the experiment on a file "
            "system that all workers share, with -o"
        )


def _sees(path: str) -> bool:
    return Path(path, "jobs").is_dir()
