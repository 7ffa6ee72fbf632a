"""`kill -9` at random moments: what is there is right, and going on makes it complete."""

import pytest

from tests.faults.figures import note
from tests.faults.kills import Campaign, train_command, train_loop

DIGITS = (
    "model.name=mlp",
    "train.steps=80",
    "train.threads=1",
    "train.device=cpu",
    "record.memory=5MB",  # blocks of 8
    "eval.steps=0::20",
)
STAGES = "[{name = 'blur', steps = '0:2ep'}, {name = 'random-labels', steps = '40:60'}]"
TASKS = (*DIGITS, "task.factor=2", f"task.stages={STAGES}")
RESNET = (
    "model.name=resnet20",
    "train.batch_size=8",
    "train.steps=80",
    "train.threads=1",
    "train.device=cpu",
    "record.memory=27MB",  # blocks of 8
    "eval.steps=40",
)


def test_ten_kills_of_a_loop_of_ones_own(tmp_path):
    campaign = Campaign(train_loop, (60, 0.002), tmp_path, seed=1)
    campaign.kill(10)
    assert campaign.tally.verified >= 10
    assert campaign.tally.runs == campaign.tally.identical >= 1


def test_eight_kills_of_the_command_line(tmp_path):
    campaign = Campaign(train_command, (DIGITS,), tmp_path, seed=2)
    campaign.kill(8)
    assert campaign.tally.verified >= 8
    assert campaign.tally.runs == campaign.tally.identical >= 1


def test_six_kills_of_a_run_whose_task_changes(tmp_path):
    campaign = Campaign(train_command, (TASKS,), tmp_path, seed=4)
    campaign.kill(6)
    assert campaign.tally.verified >= 6
    assert campaign.tally.runs == campaign.tally.identical >= 1


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("name", "target", "arguments", "count"),
    [
        ("a loop of one's own, 13 weights", train_loop, (200, 0.002), 260),
        ("`ckptlab record`, MLP on digits", train_command, (DIGITS,), 120),
        ("`ckptlab record`, ResNet-20 on digits", train_command, (RESNET,), 130),
        ("`ckptlab record`, tasks that change", train_command, (TASKS,), 60),
    ],
)
def test_hundreds_of_kills(tmp_path, name, target, arguments, count):
    campaign = Campaign(target, arguments, tmp_path, seed=3)
    campaign.kill(count)
    note("kills", name, **campaign.tally.figures(campaign.block))
