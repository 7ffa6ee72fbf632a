"""Which tasks there are.

Imports nothing of ckptlab; torch is never imported here.
"""

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
        ``"module:function"``, called as ``f(config, data, seeds)`` with the `TaskConfig`, the
        `Images` and the resolved `Seeds`, returns a `Task`.
    summary : str
        One line of documentation.
    classes : int or None
        Number of answers; None if it is the number of classes of the data.
    """

    name: str
    build: str
    summary: str
    classes: int | None = None


TASKS: tuple[TaskEntry, ...] = (
    TaskEntry(
        name="supervised",
        build="ckptlab.train.tasks.supervised:supervised",
        summary="predict the label",
    ),
)
