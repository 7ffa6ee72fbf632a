"""Running the jobs of a plan: each once, what it needs first, failures noted while the rest go on.

Imports experiments, dask.distributed and errors. The folder alone says what is done, so that a
driver that was killed is replaced by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptlab.errors import CkptlabError, ConfigError
from ckptlab.experiments.folder import Folder
from ckptlab.experiments.plan import Plan
from ckptlab.experiments.spec import write_job
from ckptlab.experiments.work import Place, perform


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
        _Driver(plan, folder, client, outcome, on_change).run()
    return outcome


class _Driver:
    """Hands jobs to the workers as soon as what they need is there."""

    def __init__(
        self, plan: Plan, folder: Folder, client: Any, outcome: Outcome, on_change: OnChange | None
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._client = client
        self._outcome = outcome
        self._on_change = on_change
        self._depths = plan.depths()
        self._running: dict[Any, str] = {}
        self._place = Place(folder=str(folder.path.absolute()), recordings=_absolute(plan))

    def run(self) -> None:
        from distributed import CancelledError, as_completed

        ended = as_completed(loop=self._client.loop)
        self._submit(ended)
        try:
            for future in ended:
                self._settle(future)
                self._submit(ended)
        except CancelledError as error:
            raise _gone() from error
        finally:
            # Interrupted, or the scheduler is gone: nothing may begin any more.
            self._client.cancel(list(self._running), force=True)

    def _submit(self, ended: Any) -> None:
        waiting = set(self._outcome.left(self._plan)) - set(self._running.values())
        for key in waiting:
            if self._plan.needs(key) <= self._outcome.done:
                future = self._client.submit(
                    perform,
                    key,
                    write_job(self._plan.jobs[key]),
                    self._place,
                    key=f"{key}-{id(self)}",
                    pure=False,
                    # Long chains first, or they are what is left at the end.
                    priority=self._depths[key],
                )
                self._running[future] = key
                ended.add(future)

    def _settle(self, future: Any) -> None:
        key = self._running.pop(future)
        if future.status == "cancelled":
            raise _gone()
        if future.status == "error":
            reason = _reason(future.exception())
            self._folder.write_failure(key, reason)
            self._outcome.failed[key] = reason
            _block(self._plan, self._outcome)
        else:
            self._folder.forget_failure(key)
            self._outcome.done.add(key)
            self._outcome.warnings += future.result()
        if self._on_change is not None:
            self._on_change(self._outcome)


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


def _reason(error: BaseException) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "the worker died each time it was tried; it may lack memory"
    if isinstance(error, CkptlabError):
        return str(error)
    return f"{type(error).__name__}: {error}"


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
