"""Running the jobs of a plan: each once, what it needs first, failures noted while the rest go on.

The folder alone says what is done, so that a
driver that was killed is replaced by the next one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import TrainJob, write_job
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.jobs.worker import Place, Result, perform, reason
from ckptlab.train.interleave import SHARED


@dataclass(kw_only=True, slots=True)
class Outcome:
    """How the jobs of a plan stand.

    Parameters
    ----------
    done : set of str
        Ids of jobs whose results are there.
    failed : dict of str to str
        What others failed of, now or the last time.
    blocked : set of str
        Those that need a failed one.
    warnings : list of str
        What the jobs had to say.
    """

    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def left(self, plan: Plan) -> list[str]:
        """Return the ids of the jobs that are still to be done."""
        settled = self.done | set(self.failed) | self.blocked
        return [key for key in plan.jobs if key not in settled]


OnChange = Callable[[Outcome], None]

LOOK_SECONDS = 2.0
"""How often it is looked whether workers have come, while no job ends."""


def survey(plan: Plan, folder: Folder, *, retry_failed: bool = False) -> Outcome:
    """Look how the jobs of a plan stand, without doing any.

    Parameters
    ----------
    plan : Plan
        The experiment.
    folder : Folder
        Where it lies.
    retry_failed : bool
        Count jobs that failed the last time among those to do.

    Returns
    -------
    Outcome
        From the folder alone.
    """
    outcome = Outcome()
    for key, job in plan.jobs.items():
        if folder.is_done(key, job):
            outcome.done.add(key)
            continue
        failure = None if retry_failed else folder.failure(key)
        if failure is not None:
            outcome.failed[key] = failure
    _block(plan, outcome)
    return outcome


def execute(
    plan: Plan,
    folder: Folder,
    client: Any,
    *,
    retry_failed: bool = False,
    together: int = 1,
    on_change: OnChange | None = None,
) -> Outcome:
    """Do what is left of a plan.

    Parameters
    ----------
    plan : Plan
        The experiment.
    folder : Folder
        Where it lies; locked by the caller.
    client : distributed.Client
        Whose workers do the jobs.
    retry_failed : bool
        Do jobs again that failed the last time.
    together : int
        Trainings that a worker does at once, which pays on a GPU.
    on_change : callable, optional
        Called with the `Outcome` whenever a job has ended.

    Returns
    -------
    Outcome
        Once nothing more can be done.

    Raises
    ------
    ConfigError
        If the workers do not see the folder, or the scheduler goes away; what is done stays.
    """
    outcome = survey(plan, folder, retry_failed=retry_failed)
    if outcome.left(plan):
        _require_shared(folder, client)
        _Driver(plan, folder, client, outcome, on_change, together).run()
    return outcome


class _Driver:
    """Hands jobs to the workers as soon as what they need is there."""

    def __init__(
        self,
        plan: Plan,
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
        self._place = Place(folder=str(folder.path.absolute()), recordings=_absolute(plan))

    def run(self) -> None:
        from distributed import CancelledError

        try:
            self._submit()
            while self._outcome.left(self._plan):
                ended = self._wait()
                for future in ended:
                    self._settle(future)
                # The worker must not stand still while what has changed is shown.
                self._submit()
                if ended and self._on_change is not None:
                    self._on_change(self._outcome)
        except CancelledError as error:
            raise _gone() from error
        finally:
            # Interrupted, or the scheduler is gone: nothing may begin any more.
            self._client.cancel(list(self._running), force=True)

    def _wait(self) -> set[Any]:
        from distributed import wait

        if not self._running:
            # All workers have died, and begin anew.
            time.sleep(LOOK_SECONDS)
            return set()
        try:
            with self._client.as_current():
                done = wait(list(self._running), LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return set()
        return set(done)

    def _submit(self) -> None:
        """Give each worker without a job its next one.

        A job takes minutes and its worker whole. Jobs that wait should do so here, where the next
        free worker takes the first of them: dask shares out at once what it is given, evenly by
        number, and corrects that late.
        """
        running = {key for keys in self._running.values() for key in keys}
        ready = [
            key
            for key in self._outcome.left(self._plan)
            if key not in running and self._plan.needs(key) <= self._outcome.done
        ]
        try:
            workers = len(self._client.nthreads())
        except OSError as error:  # here alone: a full disk is no scheduler that went away
            raise _gone() from error
        free = workers - len(self._running)
        for keys in itertools.islice(self._bundles(ready, workers), max(free, 0)):
            future = self._client.submit(
                perform,
                [(key, write_job(self._plan.jobs[key])) for key in keys],
                self._place,
                key=f"{keys[0]}-{id(self)}",
                pure=False,
            )
            self._running[future] = keys

    def _bundles(self, ready: list[str], workers: int) -> Iterator[list[str]]:
        """Put trainings together that one worker does at once, and share them out evenly."""
        alike: dict[object, list[str]] = {}
        # Long chains first, or they are what is left at the end.
        for key in sorted(ready, key=lambda key: -self._depths[key]):
            job = self._plan.jobs[key]
            if self._together > 1 and isinstance(job, TrainJob):
                train = job.config.train
                kind = tuple(getattr(train, name) for name in SHARED)
                alike.setdefault((kind, job.config.data), []).append(key)
            else:
                yield [key]
        for keys in alike.values():
            size = min(self._together, -(-len(keys) // max(workers, 1)))
            yield from (keys[i : i + size] for i in range(0, len(keys), size))

    def _settle(self, future: Any) -> None:
        keys = self._running.pop(future)
        if future.status == "cancelled":
            raise _gone()
        results: list[Result]
        if future.status == "error":
            died = _died(future.exception())
            results = [Result(key=key, error=died, warnings=()) for key in keys]
        else:
            results = future.result()
        for result in results:
            self._outcome.warnings += result.warnings
            if result.error is None:
                self._folder.forget_failure(result.key)
                self._outcome.done.add(result.key)
            else:
                self._folder.write_failure(result.key, result.error)
                self._outcome.failed[result.key] = result.error
        _block(self._plan, self._outcome)


def _block(plan: Plan, outcome: Outcome) -> None:
    for key in plan.jobs:
        if key not in outcome.done and plan.needs(key) & (set(outcome.failed) | outcome.blocked):
            outcome.blocked.add(key)


def _absolute(plan: Plan) -> Mapping[str, str]:
    from pathlib import Path

    return {
        key: path if "://" in path else str(Path(path).absolute())
        for key, path in plan.recordings.items()
    }


def _died(error: BaseException) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "the worker died each time it was tried; it may lack memory"
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
    from pathlib import Path

    return Path(path, "jobs").is_dir()
