"""From the settings of a task to the task, and to the course of tasks over a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ckptlab.record.schedule import Schedule
from ckptlab.train.data import Data
from ckptlab.train.registry import find, resolve
from ckptlab.train.sections import TaskChoice, TaskConfig
from ckptlab.train.seeds import Seeds
from ckptlab.train.tasks.registry import TASKS
from ckptlab.train.tasks.task import Task


def build_task(choice: TaskChoice, data: Data, seeds: Seeds) -> Task:
    """Build one task; of a `TaskConfig`, the one outside its stages.

    Parameters
    ----------
    choice : TaskChoice
        Which one, and its settings.
    data : Data
        The data set.
    seeds : Seeds
        Its ``task`` decides what is drawn.

    Returns
    -------
    Task
        The same at every step but for what it draws.
    """
    task: Task = resolve(find(TASKS, "task.name", choice.name).build)(choice, data, seeds)
    return task


def with_stages(
    task: Task, config: TaskConfig, schedules: Sequence[Schedule], seeds: Seeds
) -> Task:
    """Let stages take the place of a task.

    The step before an update decides which task it has, so that any step can be replayed.
    Evaluations stay those of `task`.

    Parameters
    ----------
    task : Task
        What applies outside the stages.
    config : TaskConfig
        Its ``stages``.
    schedules : sequence of Schedule
        Over which steps each lasts.
    seeds : Seeds
        As for `build_task`.

    Returns
    -------
    Task
        The course of tasks.
    """
    if not schedules:
        return task
    stages = [
        (schedule, build_task(stage, task.data, seeds))
        for schedule, stage in zip(schedules, config.filled_stages, strict=True)
    ]

    def at(step: int) -> Task:
        return next((stage for schedule, stage in stages if step in schedule), task)

    return replace(task, stages=at)


def describe_tasks(config: TaskConfig) -> dict[str, Any]:
    """Say in words what the network is trained on and evaluated on.

    Parameters
    ----------
    config : TaskConfig
        The settings.

    Returns
    -------
    dict
        ``training``, by name of the task, and ``evaluation``: an attribute of the run.
    """
    names = dict.fromkeys([config.name, *(stage.name for stage in config.stages)])
    entries = {name: find(TASKS, "task.name", name) for name in names}
    return {
        "training": {name: entry.training for name, entry in entries.items()},
        "evaluation": entries[config.name].evaluation,
    }
