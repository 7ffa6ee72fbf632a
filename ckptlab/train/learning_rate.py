"""The learning rate as a pure function of the step.

Update number k, which
turns step k into step k + 1, uses the rate at k, for k = 0 … steps − 1.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from ckptlab.train.registry import find, resolve


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSchedule:
    """One shape of the learning rate over a run.

    Parameters
    ----------
    name : str
        What users write.
    factor : str
        ``"module:function"``, called as ``f(step, rate)``, returns what the base rate is
        multiplied by.
    summary : str
        One line of documentation.
    """

    name: str
    factor: str
    summary: str


RATE_SCHEDULES: tuple[RateSchedule, ...] = (
    RateSchedule(
        name="constant",
        factor="ckptlab.train.learning_rate:constant",
        summary="the base rate throughout",
    ),
    RateSchedule(
        name="multistep",
        factor="ckptlab.train.learning_rate:multistep",
        summary="multiplied by optim.gamma at each of optim.milestones",
    ),
    RateSchedule(
        name="cosine",
        factor="ckptlab.train.learning_rate:cosine",
        summary="half a cosine from the base rate after the warm-up to 0 at the end of the run",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
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
    milestones : tuple of int
        Steps at which `multistep` falls.
    gamma : float
        What it falls by.
    warmup : int
        Number of first updates over which the rate rises linearly; update 0 uses 1 / warmup of it.
    """

    base: float
    schedule: str
    steps: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """Return the rate of the update from `step` to `step` + 1."""
        factor = resolve(find(RATE_SCHEDULES, "optim.schedule", self.schedule).factor)
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.base * warm * float(factor(step, self))


def constant(step: int, rate: LearningRate) -> float:  # noqa: ARG001 - every factor is called alike
    """Return 1.

    Parameters
    ----------
    step : int
        Step before the update.
    rate : LearningRate
        The settings.

    Returns
    -------
    float
        Always 1.
    """
    return 1.0


def multistep(step: int, rate: LearningRate) -> float:
    """Return gamma to the power of the number of milestones reached.

    Parameters
    ----------
    step : int
        Step before the update.
    rate : LearningRate
        The settings.

    Returns
    -------
    float
        The factor.
    """
    return float(rate.gamma ** bisect_right(sorted(rate.milestones), step))


def cosine(step: int, rate: LearningRate) -> float:
    """Return half a cosine wave, from 1 at the end of the warm-up to 0 at the end of the run.

    Parameters
    ----------
    step : int
        Step before the update.
    rate : LearningRate
        The settings.

    Returns
    -------
    float
        The factor.
    """
    span = max(rate.steps - rate.warmup, 1)
    progress = min(max(step - rate.warmup, 0) / span, 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * progress))
