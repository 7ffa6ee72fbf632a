"""Deficits change the data for a while, and nothing else."""

import pytest
import xarray as xr

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.critical import plan_critical
from ckptlab.report.choices import choices_of
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config

SETTINGS = ["model.name=mlp", "model.width=6", "optim.schedule=multistep", "train.device=cpu"]


def plan_of(*settings: str, **options) -> ExperimentPlan:
    plan = ExperimentPlan(title="", kind="critical")
    config = load_config(overrides=[*SETTINGS, "optim.milestones=2ep,20", *settings])
    plan_critical(plan, [config], deficit="blur", onsets=[0], durations=[0, 12, "2ep"], **options)
    return plan


def planned(*settings: str, **options):
    plan = plan_of(*settings, **options)
    return [plan.jobs[cell.run].config for cell in plan.cells]


def rates(config) -> list[float]:
    training = build(config)
    return [float(training.update.rate(step)) for step in range(training.steps)]


def test_the_rate_falls_as_long_after_every_deficit():
    configs = planned(clean=36)
    clean = [rates(config)[-36:] for config in configs]
    assert clean[0] == clean[1] == clean[2]
    assert len(set(clean[0])) == 3
    for config in configs[1:]:
        during = rates(config)[:-36]
        assert set(during) == {clean[0][0]}


def test_milestones_of_the_whole_training_can_be_asked_for():
    _, first, second = planned(clean=36, milestones="training")
    assert rates(first)[:48] == rates(second)[:48]


@pytest.mark.parametrize(
    ("settings", "milestones", "said"),
    [
        ([], "clean", "The learning rate falls: as long after the end of every deficit."),
        (
            [],
            "training",
            "at the same steps, so that a later end of the deficit leaves other rates",
        ),
        (["optim.schedule=constant", "optim.milestones="], "clean", ""),
    ],
)
def test_captions_say_when_the_rate_falls(settings, milestones, said):
    attributes = plan_of(*settings, clean=36, milestones=milestones).attributes
    caption = choices_of([xr.Dataset(attrs=attributes)])
    assert (said in caption) if said else ("rate falls" not in caption)


def test_schedules_that_cannot_be_shifted_are_refused():
    with pytest.raises(ConfigError, match=r"optim\.schedule='cosine'.*milestones = \"training\""):
        planned("optim.schedule=cosine", "optim.milestones=", clean=36)
    planned("optim.schedule=cosine", "optim.milestones=", clean=36, milestones="training")
