"""Plan critical periods: a deficit in the data for a while, then clean data.

References
----------
Achille, Rovere & Soatto (2019), arXiv:1711.08856, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.job import TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.parent_run import spread
from ckptlab.record.schedule import parse_step
from ckptlab.train.config import Config, change
from ckptlab.train.estimate import steps_per_epoch

Milestones = Literal["clean", "training"]
"""Where milestones of the learning rate count from: the end of the deficit, or step 0."""


def plan_critical(
    plan: ExperimentPlan,
    configs: Sequence[Config],
    *,
    deficit: str | Mapping[str, Any],
    onsets: Sequence[str | int],
    durations: Sequence[str | int],
    clean: str | int | None,
    milestones: Milestones = "clean",
) -> None:
    """Train with a deficit from each onset for each duration.

    Cells have the dims (onset, duration, replicate); several onsets of one duration are a sliding
    window. `deficit` is a task such as ``blur`` or ``{"name": "blur", "factor": 2}``, and `clean`
    the length of what follows it, the same for all; None keeps `train.steps`. With `clean`,
    milestones ``clean`` lets the learning rate fall as long after the end of every deficit, so that
    the duration alone differs. ConfigError if a deficit does not end within the training.
    """
    if any(config.optim.schedule != "constant" for config in configs):
        shifted = clean is not None and milestones == "clean"
        plan.attributes["rate_falls"] = (
            "as long after the end of every deficit"
            if shifted
            else "at the same steps, so that a later end of the deficit leaves other rates"
        )
    for replicate, config in enumerate(configs):
        epoch = steps_per_epoch(config)
        for onset in (parse_step(text, epoch) for text in onsets):
            for duration in (parse_step(text, epoch) for text in durations):
                steps = parse_step(config.train.steps, epoch)
                settings, end = config, onset + duration
                if clean is not None:
                    steps = end + parse_step(clean, epoch)
                    settings = shift_rate(config, end, epoch) if milestones == "clean" else config
                if end > steps:
                    raise ConfigError(
                        f"a deficit of {duration} steps from step {onset} outlasts the training of "
                        f"{steps} steps; give clean=, or a larger train.steps"
                    )
                settings = with_deficit(settings, deficit, onset, duration, steps)
                run = plan.add(TrainJob(config=settings))
                plan.put(run, onset=onset, duration=duration, replicate=replicate)


def shift_rate(config: Config, steps: int, epoch: int) -> Config:
    """Let the learning rate fall so many steps later; ConfigError if its schedule has no such way.

    A warm-up stays at the beginning.
    """
    if config.optim.schedule == "constant" or not steps:
        return config
    if config.optim.schedule != "multistep":
        raise ConfigError(
            f"optim.schedule={config.optim.schedule!r} cannot begin after a deficit, so that the "
            "duration would change the learning rate too; use multistep or constant, or milestones "
            '= "training" to accept it'
        )
    later = [parse_step(text, epoch) + steps for text in config.optim.milestones]
    return change(config, optim={"milestones": later})


def with_deficit(
    config: Config, deficit: str | Mapping[str, Any], onset: int, duration: int, steps: int
) -> Config:
    """Return settings of a training of so many steps with a deficit over some of them."""
    task = {"name": deficit} if isinstance(deficit, str) else dict(deficit)
    stages = [{**task, "steps": f"{onset}:{onset + duration}"}] if duration else []
    return change(
        config,
        task={"stages": stages},
        train={"steps": steps},
        record={"steps": spread(0, steps)},
    )
