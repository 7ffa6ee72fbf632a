"""Name the tasks: what the network sees and must answer, and the settings each takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from ckptlab.registry import Registry
from ckptlab.train.factories import Factory
from ckptlab.train.sections import (
    OTHER,
    Choice,
    Stretches,
    by_name,
    name_of,
    options_of,
    setting,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    """One way to turn labelled images into what the network sees and must answer.

    Parameters
    ----------
    name : str
        What users write.
    build : callable or str
        Returns a `Task`; called with those of ``data``, ``seed`` and the task's settings that it
        has parameters for.
    summary : str
        One line of documentation.
    training, evaluation : str
        What the network sees and must answer in an update and on the test set; recorded with
        every run.
    answers : tuple of str or None
        Names of the answers; None if they are the classes of the data.
    square : bool
        Whether images must be as high as wide.
    """

    name: str
    build: Factory
    summary: str
    training: str
    evaluation: str
    answers: tuple[str, ...] | None = None
    square: bool = False


TURNS: tuple[str, ...] = ("0", "90", "180", "270")
"""Degrees, counter-clockwise, that images are turned by."""


def task_entry(
    name: str,
    build: Any,
    summary: str = "",
    training: str = "",
    evaluation: str = "",
    answers: tuple[str, ...] | None = None,
    square: bool = False,
) -> TaskEntry:
    """Make an entry of a user's function, which returns a `Task`."""
    if not callable(build):
        raise TypeError("a task is a function that returns a ckptlab.train.tasks.task.Task")
    doc = inspect.getdoc(build) or ""
    summary = summary or doc.partition("\n")[0]
    # Named as module:object, a decorated function keeps the answers it was registered with.
    answers = answers or getattr(build, "ckptlab_fields", {}).get("answers")
    return TaskEntry(
        name=name,
        build=build,
        summary=summary,
        training=training or summary,
        evaluation=evaluation or summary,
        answers=answers,
        square=square,
    )


TASKS: Registry[TaskEntry] = Registry(
    "task",
    (
        TaskEntry(
            name="supervised",
            build="ckptlab.train.tasks.supervised:supervised",
            summary="predict the label",
            training="images with their labels",
            evaluation="images with their labels",
        ),
        TaskEntry(
            name="random-labels",
            build="ckptlab.train.tasks.random_labels:random_labels",
            summary="predict labels drawn at random",
            training="images with labels drawn once, uniformly over the classes, by "
            "train.task_seed",
            evaluation="images with their true labels, of which training says nothing: expect "
            "chance",
        ),
        TaskEntry(
            name="rotation",
            build="ckptlab.train.tasks.rotation:rotation",
            summary="predict by how many degrees an image was turned",
            training="images turned counter-clockwise after augmentation, drawn for each step and "
            "image; the turn is the answer",
            evaluation="images turned by one turn each, drawn once; the turn is the answer",
            answers=TURNS,
            square=True,
        ),
        TaskEntry(
            name="blur",
            build="ckptlab.train.tasks.blur:blur",
            summary="predict the label of a blurred image",
            training="images scaled down by task.factor and up again after augmentation, bilinear, "
            "antialiased on the way down, with their labels",
            evaluation="sharp images with their labels",
        ),
        TaskEntry(
            name="blur-rotation",
            build="ckptlab.train.tasks.blur_rotation:blur_rotation",
            summary="predict by how many degrees a blurred image was turned",
            training="images blurred as by blur, then turned as by rotation; the turn is the "
            "answer",
            evaluation="sharp images turned by one turn each, drawn once; the turn is the answer",
            answers=TURNS,
            square=True,
        ),
    ),
    adapt=task_entry,
    group="ckptlab.tasks",
)


class TaskChoice(Choice):
    """One task."""

    name: str = setting("supervised", "which task", "a task name")


class PlainTask(TaskChoice):
    """A task that takes no settings."""

    name: Literal["supervised", "random-labels", "rotation"] = setting(
        "supervised", "which task", "a task name"
    )


class BlurTask(TaskChoice):
    """A task on blurred images."""

    name: Literal["blur", "blur-rotation"] = setting(..., "which task", "a task name")
    factor: Annotated[int, Field(ge=2)] = setting(
        4, "images are scaled down by this and up again", "a whole number >= 2"
    )


class OtherTask(TaskChoice):
    """A task of your own."""

    name: Annotated[str, name_of(TASKS)] = setting(
        ..., "which task", "a task name or module:object"
    )
    options: dict[str, Any] = options_of("task")


_TAGS = {
    **dict.fromkeys(("supervised", "random-labels", "rotation"), "plain"),
    **dict.fromkeys(("blur", "blur-rotation"), "blur"),
}


class StageConfig(TaskChoice):
    """A task that takes the place of ``task.name`` over a stretch of the training."""

    steps: Stretches = setting(
        ..., "updates from these steps, half-open", 'ranges A:B such as "0:40ep"'
    )


class PlainStage(PlainTask, StageConfig):
    """A stage of a task that takes no settings."""


class BlurStage(BlurTask, StageConfig):
    """A stage of blurred images."""


class OtherStage(OtherTask, StageConfig):
    """A stage of a task of your own."""


Stage = Annotated[
    Annotated[PlainStage, Tag("plain")]
    | Annotated[BlurStage, Tag("blur")]
    | Annotated[OtherStage, Tag(OTHER)],
    by_name("", _TAGS),
]


class TaskConfig(TaskChoice):
    """What the network learns."""

    stages: Annotated[tuple[Stage, ...], Field(strict=False)] = setting(
        (),
        "other tasks over some of the steps; evaluations stay those of task.name",
        'a list of stages such as [{name = "blur", steps = "0:40ep"}]',
    )

    @model_validator(mode="before")
    @classmethod
    def _stages_inherit(cls, values: Any) -> Any:
        return with_inherited(values) if isinstance(values, Mapping) else values


def with_inherited(task: Mapping[str, Any]) -> dict[str, Any]:
    """Hand a setting such as ``factor`` on to the stages that take it and do not set it."""
    if not isinstance(task.get("stages"), list | tuple):
        return dict(task)
    shared = {k: v for k, v in task.items() if k in BlurTask.model_fields and k != "name"}
    stages, taken = [], set()
    for stage in task["stages"]:
        if isinstance(stage, Mapping) and _TAGS.get(str(stage.get("name"))) == "blur":
            own = {key: value for key, value in stage.items() if value is not None}
            taken |= shared.keys() - own.keys()
            stages.append(shared | own)
        else:
            stages.append(stage)
    if _TAGS.get(str(task.get("name", "supervised"))) == "blur":
        taken.clear()
    return {**{k: v for k, v in task.items() if k not in taken}, "stages": stages}


class PlainTaskConfig(PlainTask, TaskConfig):
    """A task that takes no settings."""


class BlurTaskConfig(BlurTask, TaskConfig):
    """A task on blurred images."""


class OtherTaskConfig(OtherTask, TaskConfig):
    """A task of your own."""


AnyTask = Annotated[
    Annotated[PlainTaskConfig, Tag("plain")]
    | Annotated[BlurTaskConfig, Tag("blur")]
    | Annotated[OtherTaskConfig, Tag(OTHER)],
    by_name("supervised", _TAGS),
]
