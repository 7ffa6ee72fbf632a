"""What an experiment would take, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass

from ckptlab.experiments.jobs.job import TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.jobs.scheduler import Outcome
from ckptlab.record.schedule import parse_step
from ckptlab.train.estimate import measure_step, steps_per_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """How much is left to do.

    Parameters
    ----------
    jobs, trainings : int
        Jobs in all, and trainings among them.
    done, failed : int
        Jobs whose results are there, and that failed the last time.
    steps : int
        Updates that are left.
    seconds : float
        What they take on this machine, with the workers given.
    """

    jobs: int
    trainings: int
    done: int
    failed: int
    steps: int
    seconds: float


def estimate(plan: Plan, outcome: Outcome, workers: int) -> Estimate:
    """Estimate what is left of a plan, by a few updates of each kind of training in it.

    Parameters
    ----------
    plan : Plan
        The experiment.
    outcome : Outcome
        How its jobs stand.
    workers : int
        How many work at once.

    Returns
    -------
    Estimate
        Evaluations and measurements not counted.
    """
    trainings = [job for job in plan.jobs.values() if isinstance(job, TrainJob)]
    left = set(outcome.left(plan))
    steps, seconds = 0, 0.0
    paces: dict[str, float] = {}
    for key, job in plan.jobs.items():
        if key not in left or not isinstance(job, TrainJob):
            continue
        config = job.config
        kind = repr((config.model, config.data, config.task, config.train.batch_size))
        if kind not in paces:
            paces[kind] = measure_step(config)
        steps += length(job)
        seconds += length(job) * paces[kind]
    return Estimate(
        jobs=len(plan.jobs),
        trainings=len(trainings),
        done=len(outcome.done),
        failed=len(outcome.failed),
        steps=steps,
        seconds=seconds / max(workers, 1),
    )


def length(job: TrainJob) -> int:
    """Return the number of updates of a training job."""
    begin = 0 if job.source is None else job.source.number
    return parse_step(job.config.train.steps, steps_per_epoch(job.config)) - begin
