"""Critical periods: a deficit in the data for a while, then clean data.

References
----------
Achille, Rovere & Soatto (2019), arXiv:1711.08856, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.job import TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.plans.parent_run import spread
from ckptlab.record.schedule import parse_step
from ckptlab.train.config import Config, change
from ckptlab.train.estimate import steps_per_epoch


def plan_critical(
    plan: Plan,
    configs: Sequence[Config],
    *,
    deficit: str | Mapping[str, Any],
    onsets: Sequence[str | int],
    durations: Sequence[str | int],
    clean: str | int | None,
) -> None:
    """Train with a deficit from each onset for each duration.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (onset, duration, replicate).
    configs : sequence of Config
        Settings without a deficit, one for each replicate.
    deficit : str or mapping
        Task that stands for the deficit, such as ``blur``, or ``{"name": "blur", "factor": 2}``.
    onsets : sequence of str or int
        Steps at which it begins; several of one duration are a sliding window.
    durations : sequence of str or int
        How long it lasts; 0 is no deficit at all.
    clean : str, int or None
        Length of what follows the deficit, the same for all; None keeps `train.steps`.

    Raises
    ------
    ConfigError
        If a deficit does not end within the training.
    """
    for replicate, config in enumerate(configs):
        epoch = steps_per_epoch(config)
        for onset in (parse_step(text, epoch) for text in onsets):
            for duration in (parse_step(text, epoch) for text in durations):
                steps = parse_step(config.train.steps, epoch)
                if clean is not None:
                    steps = onset + duration + parse_step(clean, epoch)
                if onset + duration > steps:
                    raise ConfigError(
                        f"a deficit of {duration} steps from step {onset} outlasts the training of "
                        f"{steps} steps; give clean=, or a larger train.steps"
                    )
                settings = with_deficit(config, deficit, onset, duration, steps)
                run = plan.add(TrainJob(config=settings))
                plan.put(run, onset=onset, duration=duration, replicate=replicate)


def with_deficit(
    config: Config, deficit: str | Mapping[str, Any], onset: int, duration: int, steps: int
) -> Config:
    """Return settings with a deficit over some steps.

    Parameters
    ----------
    config : Config
        Without it.
    deficit : str or mapping
        As `plan_critical` takes it.
    onset, duration : int
        First step, and number of steps; 0 is none.
    steps : int
        Length of the training.

    Returns
    -------
    Config
        With `task.stages`.
    """
    task = {"name": deficit} if isinstance(deficit, str) else dict(deficit)
    stages = [{**task, "steps": f"{onset}:{onset + duration}"}] if duration else []
    return change(
        config,
        task={"stages": stages},
        train={"steps": steps},
        record={"steps": spread(0, steps)},
    )
