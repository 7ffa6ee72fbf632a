"""Estimate what a training takes before it is started: sizes, steps, seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import StepError
from ckptlab.problems.problem import Problem
from ckptlab.record.schedule import Schedule, parse_schedule, parse_step
from ckptlab.train.assemble import Training, assemble
from ckptlab.train.augment import Normalisation
from ckptlab.train.config import Config, change
from ckptlab.train.data import Data, augmentation_policy, data_shape, own_halves
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.models.build import model_size
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.problem_build import build_problem

_TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSize:
    """Size of a training and of its recording.

    Parameters
    ----------
    parameters, buffers : int
        Elements of the network.
    steps, steps_per_epoch : int
        Updates in all, and of an epoch.
    recorded_steps : int
        Snapshots.
    bytes_per_step : int
        Of one snapshot with all recorded arrays, uncompressed.
    raw_bytes : int
        4 bytes for each parameter and recorded step.
    """

    parameters: int
    buffers: int
    steps: int
    steps_per_epoch: int
    recorded_steps: int
    bytes_per_step: int
    raw_bytes: int


def training_size(config: Config) -> TrainingSize:
    """Return what a training would take; nothing is trained or downloaded.

    Raises
    ------
    CkptlabError
        If a task, a stage or a step does not fit the data or the run.
    """
    problem = build_problem(config)
    epoch = -(-len(problem.train) // config.train.batch_size)
    steps = parse_step(config.train.steps, epoch)
    size = model_size(problem.model)
    recorded = len(recorded_steps(config, steps, epoch))
    evaluated(config, epoch)
    vectors = len({"weights", *config.record.arrays})
    return TrainingSize(
        parameters=size.parameters,
        buffers=size.buffers,
        steps=steps,
        steps_per_epoch=epoch,
        recorded_steps=recorded,
        bytes_per_step=4 * (vectors * size.parameters + size.buffers),
        raw_bytes=4 * size.parameters * recorded,
    )


def steps_per_epoch(config: Config) -> int:
    """Return the number of updates of an epoch."""
    return -(-len(build_problem(config).train) // config.train.batch_size)


def recorded_steps(config: Config, steps: int, steps_per_epoch: int) -> npt.NDArray[np.int64]:
    """Return the steps a run of so many steps records, in increasing order; the last always is.

    Raises
    ------
    StepError
        If a range is empty, or starts beyond the run.
    """
    found = schedule("record.steps", config.record.steps, steps_per_epoch)
    for part in found.ranges:
        if part.start > steps:
            raise StepError(
                f"record.steps={config.record.steps!r} starts a range at step {part.start}, beyond "
                f"the run; accepted: 0 to {steps} (train.steps={config.train.steps!r})"
            )
    return np.union1d(found.steps(steps + 1), [steps]).astype(np.int64)


def evaluated(config: Config, steps_per_epoch: int) -> Schedule | None:
    """Return when the test set is evaluated; None is after the last step alone."""
    steps = config.eval.steps
    return None if steps is None else schedule("eval.steps", steps, steps_per_epoch)


def schedule(key: str, text: str, steps_per_epoch: int) -> Schedule:
    """Parse a schedule that a setting holds; StepError names the setting and the epoch."""
    try:
        return parse_schedule(text, steps_per_epoch)
    except StepError as error:
        raise StepError(f"{key}={text!r}: {error} (an epoch is {steps_per_epoch} steps)") from error


def measure_step(config: Config) -> float:
    """Return the seconds of an update: the quickest of a few."""
    device = resolve_device(config.train)
    with numerics(config.train, device):
        training = assemble(*timing_problem(config, device), device)
        # The first update also sets things up.
        return min(_timed(training, step) for step in range(1 + _TIMED_STEPS))


def timing_problem(
    config: Config, device: torch.device, test: int | None = 1
) -> tuple[Config, Problem]:
    """Return settings and problem of a training that is only timed.

    Images are made up, one batch of them and at most `test` to evaluate; other examples are read.
    """
    # An epoch is one batch here, so that stages and milestones would fall on other steps.
    config = change(config, optim={"schedule": "constant"})
    if config.problem.name is not None or own_halves(config.data) is not None:
        return config, build_problem(config, device)
    shape = data_shape(config.data)
    count = shape.test if test is None else min(shape.test, test)
    shape = replace(shape, train=config.train.batch_size, test=count)
    config = change(config, task={"stages": ()})
    data = made_up_data(config, shape, device)
    return config, build_problem(config, device, data=data)


def _timed(training: Training, step: int) -> float:
    start = time.perf_counter()
    training.step(step)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return time.perf_counter() - start


def made_up_data(config: Config, shape: DataShape, device: torch.device) -> Data:
    """Return black images of one class, for timing."""
    size = (shape.height, shape.width, shape.channels)
    flip, crop = augmentation_policy(config.data, shape)
    return Data(
        shape=shape,
        train=torch.zeros(shape.train, *size, dtype=torch.uint8, device=device),
        train_labels=torch.zeros(shape.train, dtype=torch.int64, device=device),
        test=torch.zeros(shape.test, *size, dtype=torch.uint8, device=device),
        test_labels=torch.zeros(shape.test, dtype=torch.int64, device=device),
        normalise=Normalisation(
            scale=torch.ones(shape.channels, device=device),
            shift=torch.zeros(shape.channels, device=device),
        ),
        flip=flip,
        crop=crop,
        classes=tuple(str(label) for label in range(shape.classes)),
    )
