"""Estimate how long an experiment takes, by short pieces of its jobs on the real workers."""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptlab.experiments.jobs.cluster import open_client
from ckptlab.experiments.jobs.context import JobContext
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.scheduler import job_context, read_outcome
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.train.assemble import assemble
from ckptlab.train.config import Config, change
from ckptlab.train.data import read_some
from ckptlab.train.estimate import steps_per_epoch, timing_problem
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.problem_build import build_problem
from ckptlab.train.trainer import train

TIMED_SECONDS = 1.0
"""How long updates of a kind of training are timed."""

TEST_IMAGES = 512
"""Most images of the evaluation that is timed."""

METRIC_SECONDS = 2.0
"""Rough time of a metric that needs no network."""

CONNECTIVITY_SAMPLES = 1024
"""Images that running statistics are recomputed on at each point, unless an option says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What is left of an experiment: counts of jobs and updates, and seconds on local workers."""

    jobs: int
    trainings: int
    done: int
    failed: int
    steps: int
    workers: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCost:
    """Seconds of a training's set-up, of one update, and of the evaluation of one image."""

    setup: float
    update: float
    image: float


def estimate(
    plan: ExperimentPlan,
    folder: Folder,
    *,
    workers: int | None = None,
    threads: int = 1,
    retry_failed: bool = False,
    on_measured: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Start workers, time a training of each kind and the reading of its data, and add up.

    Nothing is written to the folder, and at most some images are read. Jobs that run several at a
    time on a GPU may be quicker.
    """
    outcome = read_outcome(plan, folder, retry_failed=retry_failed)
    left = {key: plan.jobs[key] for key in outcome.left(plan)}
    trainings = {key: job for key, job in left.items() if isinstance(job, TrainJob)}
    kinds = {kind_of(job): job.config for job in trainings.values()}
    began = time.perf_counter()
    costs: dict[str, JobCost] = {}
    count, seconds = workers or 1, 0.0
    if left:
        with open_client(None, workers, threads) as client:
            addresses = list(client.nthreads())
            count = len(addresses)
            _everywhere(client, addresses, _ready)
            start = time.perf_counter() - began
            for done, (kind, config) in enumerate(kinds.items()):
                if on_measured is not None:
                    on_measured(done, len(kinds))
                given = config.model_dump_json(), job_context(plan, folder)
                found = _everywhere(client, addresses, measure_training, *given)
                costs[kind] = max(found, key=lambda cost: cost.update)
            # Each worker reads a data set once.
            for data in {config.data: config for config in kinds.values()}.values():
                given = data.model_dump_json(), job_context(plan, folder)
                start += max(_everywhere(client, addresses, measure_reading, *given))
        took = {key: job_seconds(plan, key, costs) for key in left}
        seconds = start + finish_time(plan, took, count)
    return Estimate(
        jobs=len(plan.jobs),
        trainings=sum(isinstance(job, TrainJob) for job in plan.jobs.values()),
        done=len(outcome.done),
        failed=len(outcome.failed),
        steps=sum(length(job) for job in trainings.values()),
        workers=count,
        seconds=seconds,
    )


def length(job: TrainJob) -> int:
    """Return the number of updates of a training job."""
    begin = 0 if job.source is None else job.source.number
    return parse_step(job.config.train.steps, steps_per_epoch(job.config)) - begin


def kind_of(job: TrainJob) -> str:
    """Return what decides the speed of a training: all settings but seeds, length and schedules."""
    config = job.config
    train = config.train.model_dump(include={"batch_size", "threads", "device", "precision"})
    learnt = (config.problem, config.model, config.data, config.task.name, config.loss)
    return repr((*learnt, config.optim.name, train))


def measure_training(text: str, context: JobContext | None = None) -> JobCost:
    """Time a training of the settings in `text` (JSON), on images made up for the purpose."""
    if context is not None:
        context.trust()
    config = Config.model_validate_json(text)
    device = resolve_device(config.train)
    config, problem = timing_problem(config, device, TEST_IMAGES)
    with numerics(config.train, device):
        training = assemble(config, problem, device)
        step = 0
        for seconds in (0.0, TIMED_SECONDS):  # the first update also sets things up
            began, first = time.perf_counter(), step
            while step < first + 3 or time.perf_counter() - began < seconds:
                training.step(step)
                step += 1
            float(training.step(step).loss)  # waits for the device
            update = (time.perf_counter() - began) / (step + 1 - first)
        began = time.perf_counter()
        training.evaluate()
        evaluation = time.perf_counter() - began
    short = change(config, train={"steps": 2}, record={"steps": "0:"}, eval={"steps": None})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train(short, str(Path(folder) / "run.zarr"), problem=problem)
        whole = time.perf_counter() - began
    return JobCost(
        setup=max(whole - 2 * update - evaluation, 0.0),
        update=update,
        image=evaluation / len(problem.test),
    )


def measure_reading(text: str, context: JobContext | None = None) -> float:
    """Return the seconds of reading the data of the settings in `text`, from some of the images."""
    if context is not None:
        context.trust()
    config = Config.model_validate_json(text)
    if config.problem.name is not None:
        return 0.0
    began = time.perf_counter()
    share = read_some(config.data)
    return (time.perf_counter() - began) / share


def job_seconds(plan: ExperimentPlan, key: str, costs: Mapping[str, JobCost]) -> float:
    """Add up the seconds of one job."""
    job = plan.jobs[key]
    if isinstance(job, MeasureJob):
        return _measure_seconds(plan, job, costs)
    cost, epoch = costs[kind_of(job)], steps_per_epoch(job.config)
    begin = 0 if job.source is None else job.source.number
    end = begin + length(job)
    evaluations = 1
    if job.config.eval.steps is not None:
        due = parse_schedule(job.config.eval.steps, epoch).steps(end + 1)
        evaluations = len({int(step) for step in due if step >= begin} | {end})
    images = evaluations * len(build_problem(job.config).test)
    return cost.setup + cost.update * (end - begin) + cost.image * images


def _measure_seconds(plan: ExperimentPlan, job: MeasureJob, costs: Mapping[str, JobCost]) -> float:
    run = plan.jobs.get(job.run)
    cost = costs.get(kind_of(run)) if isinstance(run, TrainJob) else None
    if job.metric != "connectivity" or cost is None or not isinstance(run, TrainJob):
        return METRIC_SECONDS
    samples = job.options.get("samples", CONNECTIVITY_SAMPLES)
    images = len(build_problem(run.config).test) + samples
    return METRIC_SECONDS + cost.image * int(images) * int(job.options.get("alphas", 30))


def finish_time(plan: ExperimentPlan, seconds: Mapping[str, float], workers: int) -> float:
    """Return when the last job ends, if each idle worker takes the ready job of longest chain."""
    depths, ended = plan.depths(), dict.fromkeys(set(plan.jobs) - set(seconds), 0.0)
    waiting = sorted(seconds, key=lambda key: -depths[key])
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        ready = [key for key in waiting if plan.needs(key) <= set(ended)]
        for key in ready[: workers - len(running)]:
            waiting.remove(key)
            heapq.heappush(running, (now + seconds[key], key))
        if not running:  # what is left needs a failed job
            break
        now, key = heapq.heappop(running)
        ended[key] = now
    return now


def _everywhere(client: Any, addresses: list[str], function: Any, *arguments: Any) -> list[Any]:
    """Call a function on all workers at once, since they share memory bandwidth."""
    futures = [
        client.submit(function, *arguments, workers=[address], pure=False) for address in addresses
    ]
    return list(client.gather(futures))


def _ready() -> None:
    """Import what jobs need."""
    import ckptlab.experiments.jobs.worker  # noqa: F401
