"""Compute the learning rate of each update as a pure function of the step.

Update number k, which turns step k into step k + 1, uses the rate at k, for k = 0 … steps − 1.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptlab.registry import Registry
from ckptlab.train.factories import arguments


def constant() -> float:
    """Return 1: the base rate throughout."""
    return 1.0


def multistep(step: int, milestones: Sequence[int], gamma: float) -> float:
    """Return gamma to the power of the number of milestones reached."""
    return float(gamma ** bisect_right(sorted(milestones), step))


def cosine(step: int, steps: int, warmup: int) -> float:
    """Return half a cosine wave, from 1 at the end of the warm-up to 0 at the end of the run."""
    progress = min(max(step - warmup, 0) / max(steps - warmup, 1), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSchedule:
    """One shape of the learning rate over a run.

    Parameters
    ----------
    name : str
        What users write.
    factor : callable
        Returns what the base rate is multiplied by; called with those of ``step``, ``steps``,
        ``warmup``, ``milestones``, ``gamma`` and ``optim.schedule_options`` that it has parameters
        for.
    summary : str
        One line of documentation.
    """

    name: str
    factor: Callable[..., float]
    summary: str

    def takes(self, key: str) -> bool:
        """Return whether the schedule depends on a setting such as ``milestones``."""
        return key in inspect.signature(self.factor).parameters


def schedule_entry(name: str, factor: Any, summary: str = "") -> RateSchedule:
    """Make an entry of a user's function."""
    if not callable(factor):
        raise TypeError("a schedule is a function of the step that returns a factor of optim.lr")
    doc = inspect.getdoc(factor) or ""
    return RateSchedule(name=name, factor=factor, summary=summary or doc.partition("\n")[0])


RATE_SCHEDULES: Registry[RateSchedule] = Registry(
    "learning-rate schedule",
    (
        RateSchedule(name="constant", factor=constant, summary="the base rate throughout"),
        RateSchedule(
            name="multistep",
            factor=multistep,
            summary="multiplied by optim.gamma at each of optim.milestones",
        ),
        RateSchedule(
            name="cosine",
            factor=cosine,
            summary="half a cosine from the base rate after the warm-up to 0 at the end of the run",
        ),
    ),
    adapt=schedule_entry,
    group="ckptlab.schedules",
)


class LearningRate:
    """The rate of every update of one run.

    Parameters
    ----------
    base : float
        Rate that the schedule scales.
    schedule : str
        Name in `RATE_SCHEDULES`.
    steps : int
        Length of the run.
    milestones : sequence of int
        Steps at which `multistep` falls.
    gamma : float
        What it falls by.
    warmup : int
        Number of first updates over which the rate rises linearly; update 0 uses 1 / warmup of it.
    options : mapping, optional
        Keyword arguments of a user's schedule.
    """

    def __init__(
        self,
        *,
        base: float,
        schedule: str,
        steps: int,
        milestones: Sequence[int] = (),
        gamma: float = 0.1,
        warmup: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._base, self._warmup = base, warmup
        entry = RATE_SCHEDULES.find(schedule, "optim.schedule")
        offered: dict[str, Any] = {"step": 0, "steps": steps, "warmup": warmup}
        offered |= {"milestones": milestones, "gamma": gamma}
        self._factor = entry.factor
        self._fixed = arguments(entry.factor, "optim.schedule", offered, options)
        self._moves = self._fixed.pop("step", None) is not None

    def __call__(self, step: int) -> float:
        """Return the rate of the update from `step` to `step` + 1."""
        warm = min(1.0, (step + 1) / self._warmup) if self._warmup else 1.0
        at = {"step": step} if self._moves else {}
        return self._base * warm * float(self._factor(**at, **self._fixed))
