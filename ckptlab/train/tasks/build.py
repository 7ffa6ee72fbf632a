"""Build tasks from their settings, and the course of tasks over a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ckptlab.errors import ConfigError
from ckptlab.record.schedule import Schedule
from ckptlab.train.data import Data
from ckptlab.train.factories import call
from ckptlab.train.seeds import Seeds
from ckptlab.train.tasks.registry import TASKS, OtherTask, TaskChoice, TaskConfig
from ckptlab.train.tasks.task import Task


def build_task(choice: TaskChoice, data: Data, seeds: Seeds) -> Task:
    """Build one task; of a `TaskConfig`, the one outside its stages."""
    entry = TASKS.find(choice.name, "task.name")
    offered: dict[str, Any] = {"data": data, "seed": seeds.task}
    options: dict[str, Any] = {}
    if isinstance(choice, OtherTask):
        options = choice.options
    else:
        offered |= choice.model_dump(exclude={"name", "stages", "steps"})
    task = call(entry.build, "task.name", offered, options)
    answers = entry.answers or data.classes
    if not isinstance(task, Task) or len(task.answers) != len(answers):
        raise ConfigError(
            f"task.name={choice.name!r} must return a ckptlab.train.tasks.task.Task with "
            f"{len(answers)} answers; other answers are named by @ckptlab.task(answers=...)"
        )
    return task


def with_stages(
    task: Task, config: TaskConfig, schedules: Sequence[Schedule], seeds: Seeds
) -> Task:
    """Let stages take the place of a task over the steps that `schedules` gives for each.

    The step before an update decides which task it has, so that any step can be replayed.
    Evaluations stay those of `task`.
    """
    if not schedules:
        return task
    stages = [
        (schedule, build_task(stage, task.data, seeds))
        for schedule, stage in zip(schedules, config.stages, strict=True)
    ]

    def at(step: int) -> Task:
        return next((stage for schedule, stage in stages if step in schedule), task)

    return replace(task, stages=at)


def describe_tasks(config: TaskConfig) -> dict[str, Any]:
    """Return the run's attribute ``task``: what the network is trained and evaluated on."""
    names = dict.fromkeys([config.name, *(stage.name for stage in config.stages)])
    entries = {name: TASKS.find(name, "task.name") for name in names}
    return {
        "training": {name: entry.training for name, entry in entries.items()},
        "evaluation": entries[config.name].evaluation,
    }
