"""Check that tasks and stages fit the data, the run and each other, before images are read."""

from __future__ import annotations

import math

from ckptlab.errors import ConfigError, StepError
from ckptlab.record.schedule import Schedule, parse_schedule
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.tasks.registry import TASKS, BlurTask, TaskChoice, TaskConfig


def count_answers(config: TaskConfig, shape: DataShape) -> int:
    """Return the size of the network's output: the number of answers of a task.

    Raises
    ------
    ConfigError
        If a task cannot work on such images, or a stage has another number of answers.
    """
    count = _fitting("task", config, shape)
    for place, stage in enumerate(config.stages):
        key = f"task.stages[{place}]"
        other = _fitting(key, stage, shape)
        if other != count:
            raise ConfigError(
                f"{key}.name={stage.name!r} has {other} answers, task.name={config.name!r} has "
                f"{count}; the stages of a run share one output layer. Record it as a run of its "
                "own and start the next run from it."
            )
    return count


def stage_schedules(config: TaskConfig, steps: int, steps_per_epoch: int) -> tuple[Schedule, ...]:
    """Return the steps of each stage of a run of `steps` updates.

    Raises
    ------
    ConfigError
        If a range is empty, starts when the run has ended, or overlaps another stage's.
    """
    schedules: list[Schedule] = []
    for place, stage in enumerate(config.stages):
        key = f"task.stages[{place}].steps={stage.steps!r}"
        try:
            schedule = parse_schedule(stage.steps, steps_per_epoch)
        except StepError as error:
            raise ConfigError(f"{key}: {error}.") from error
        latest = max(part.start for part in schedule.ranges)
        if latest >= max(steps, 1):
            raise ConfigError(
                f"{key} starts a range at step {latest}, where the run has ended; accepted: 0 to "
                f"{max(steps, 1) - 1}."
            )
        for other, before in enumerate(schedules):
            shared = _first_shared(before, schedule)
            if shared is not None:
                raise ConfigError(
                    f"{key} overlaps task.stages[{other}].steps={config.stages[other].steps!r} "
                    f"from step {shared} on; ranges are half-open and stages must not overlap."
                )
        schedules.append(schedule)
    return tuple(schedules)


def _fitting(key: str, choice: TaskChoice, shape: DataShape) -> int:
    entry = TASKS.find(choice.name, f"{key}.name")
    size = f"{shape.height} x {shape.width}"
    if entry.square and shape.height != shape.width:
        raise ConfigError(
            f"{key}.name={choice.name!r} needs square images, not {size}; "
            "data.image_size=... cuts squares out of those of an image folder."
        )
    smaller = min(shape.height, shape.width)
    if isinstance(choice, BlurTask) and choice.factor > smaller:
        raise ConfigError(
            f"{key}.name={choice.name!r} leaves nothing of images of {size} scaled down by "
            f"{choice.factor}; accepted: {key}.factor=... of at most {smaller}."
        )
    return shape.classes if entry.answers is None else len(entry.answers)


def _first_shared(a: Schedule, b: Schedule) -> int | None:
    """Return the first step in ranges of both; their strides are 1."""
    starts = [
        max(one.start, other.start)
        for one in a.ranges
        for other in b.ranges
        if max(one.start, other.start)
        < min(math.inf if part.stop is None else part.stop for part in (one, other))
    ]
    return min(starts, default=None)
