"""Which tasks there are, what the network must answer and which settings apply to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    """One way to turn labelled images into what the network sees and must answer.

    Parameters
    ----------
    name : str
        What users write.
    build : str
        ``"module:function"``, called as ``f(choice, data, seeds)`` with the `TaskChoice`, the
        `Data` and the resolved `Seeds`, returns a `Task`.
    summary : str
        One line of documentation.
    training, evaluation : str
        What the network sees and must answer in an update and on the test set; recorded with
        every run.
    answers : tuple of str or None
        Names of the answers; None if they are the classes of the data.
    options : tuple of str
        Fields of `TaskChoice` that apply, besides ``name``.
    square : bool
        Whether images must be as high as wide.
    """

    name: str
    build: str
    summary: str
    training: str
    evaluation: str
    answers: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()
    square: bool = False


TURNS: tuple[str, ...] = ("0", "90", "180", "270")
"""Degrees, counter-clockwise, that images are turned by."""

DEFAULT_FACTOR = 4
"""What images are scaled down by unless ``task.factor`` says otherwise: 32 pixels become 8."""

TASKS: tuple[TaskEntry, ...] = (
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
        training="images with labels drawn once, uniformly over the classes, by train.task_seed",
        evaluation="images with their true labels, of which training says nothing: expect chance",
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
        options=("factor",),
    ),
    TaskEntry(
        name="blur-rotation",
        build="ckptlab.train.tasks.blur_rotation:blur_rotation",
        summary="predict by how many degrees a blurred image was turned",
        training="images blurred as by blur, then turned as by rotation; the turn is the answer",
        evaluation="sharp images turned by one turn each, drawn once; the turn is the answer",
        answers=TURNS,
        options=("factor",),
        square=True,
    ),
)
