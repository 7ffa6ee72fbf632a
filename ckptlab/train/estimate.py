"""What a training would take, before it is started."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import StepError
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.train.assemble import Training, assemble
from ckptlab.train.augment import Normalisation
from ckptlab.train.config import Config
from ckptlab.train.data import Data, augmentation_policy, data_shape
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.models.build import model_size
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.seeds import Seeds
from ckptlab.train.tasks.fit import count_answers, stage_schedules

_TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
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


def plan(config: Config) -> Plan:
    """Work out what a training would take; nothing is trained or downloaded.

    Parameters
    ----------
    config : Config
        The settings.

    Returns
    -------
    Plan
        Its sizes.

    Raises
    ------
    DataError
        If an image folder is not of the expected form.
    ConfigError
        If a task or a stage does not fit the data or the run.
    StepError
        If steps are to be recorded that lie beyond the run.
    """
    epoch = steps_per_epoch(config)
    steps = parse_step(config.train.steps, epoch)
    stage_schedules(config.task, steps, epoch)
    size = model_size(config.model, task_shape(config))
    recorded = len(recorded_steps(config, steps, epoch))
    vectors = len({"weights", *config.record.arrays})
    return Plan(
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
    return -(-data_shape(config.data).train // config.train.batch_size)


def recorded_steps(config: Config, steps: int, steps_per_epoch: int) -> npt.NDArray[np.int64]:
    """List the steps a run records.

    Parameters
    ----------
    config : Config
        Its ``record.steps``.
    steps : int
        Length of the run.
    steps_per_epoch : int
        For steps given in epochs.

    Returns
    -------
    ndarray of int64, shape (recorded,)
        In increasing order; the last step is always among them.

    Raises
    ------
    StepError
        If a range starts beyond the run.
    """
    schedule = parse_schedule(config.record.steps, steps_per_epoch)
    for part in schedule.ranges:
        if part.start > steps:
            raise StepError(
                f"record.steps={config.record.steps!r} starts a range at step {part.start}, beyond "
                f"the run; accepted: 0 to {steps} (train.steps={config.train.steps!r})"
            )
    return np.union1d(schedule.steps(steps + 1), [steps]).astype(np.int64)


def measure_step(config: Config) -> float:
    """Time an update of this network on images made up for the purpose.

    Parameters
    ----------
    config : Config
        The settings.

    Returns
    -------
    float
        Seconds an update, the quickest of a few.

    Raises
    ------
    ConfigError
        If model, data and device do not fit together.
    """
    device = resolve_device(config.train)
    shape = replace(data_shape(config.data), train=config.train.batch_size, test=1)
    # An epoch is one batch here, so that stages would fall on other steps than in the run.
    config = config.model_copy(update={"task": config.task.model_copy(update={"stages": ()})})
    with numerics(config.train, device):
        training = assemble(
            config, _made_up(config, shape, device), device, Seeds.resolve(config.train)
        )
        # The first update also sets things up.
        return min(_timed(training, step) for step in range(1 + _TIMED_STEPS))


def _timed(training: Training, step: int) -> float:
    start = time.perf_counter()
    training.step(step)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return time.perf_counter() - start


def task_shape(config: Config) -> DataShape:
    """Return the sizes of a data set with the number of classes of the task.

    Parameters
    ----------
    config : Config
        The settings.

    Returns
    -------
    DataShape
        What the network is built for.
    """
    shape = data_shape(config.data)
    return replace(shape, classes=count_answers(config.task, shape))


def _made_up(config: Config, shape: DataShape, device: torch.device) -> Data:
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
