import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import ConfigError, StepError
from ckptlab.train.config import load_config, override
from ckptlab.train.estimate import measure_step, recorded_steps, training_size


def test_default_run():
    planned = training_size(load_config())
    # One input channel fewer than two of three, of 16 filters of 9 weights.
    assert planned.parameters == 272_474 - 2 * 16 * 9
    assert planned.steps_per_epoch == 12
    assert planned.recorded_steps == 501
    assert planned.raw_bytes == 4 * planned.parameters * 501
    assert planned.bytes_per_step == 4 * (planned.parameters + planned.buffers)


def test_gradients_take_as_much_again():
    without, with_them = (
        training_size(load_config(overrides=[f"record.arrays={arrays}"]))
        for arrays in ("weights", "weights,gradients")
    )
    assert with_them.bytes_per_step - without.bytes_per_step == 4 * without.parameters


@given(steps=st.integers(0, 200), stride=st.integers(1, 50), start=st.integers(0, 100))
def test_recorded_steps_by_brute_force(steps, stride, start):
    config = load_config(overrides=[f"train.steps={steps}", f"record.steps={start}::{stride}"])
    if start > steps:
        with pytest.raises(StepError, match=r"record\.steps"):
            recorded_steps(config, steps, 10)
        return
    expected = {k for k in range(steps + 1) if k >= start and (k - start) % stride == 0} | {steps}
    assert recorded_steps(config, steps, 10).tolist() == sorted(expected)


def test_steps_in_epochs():
    planned = training_size(load_config(overrides=["train.steps=2ep", "record.steps=1ep:"]))
    assert planned.steps == 24
    assert planned.recorded_steps == 13


def test_a_schedule_may_end_beyond_the_run_but_not_start_there():
    assert training_size(load_config(overrides=["record.steps=0:4001"])).recorded_steps == 501
    with pytest.raises(StepError, match=r"501.*beyond the run.*0 to 500"):
        training_size(load_config(overrides=["record.steps=0:100, 501:600"]))


@pytest.mark.parametrize(("name", "answers"), [("rotation", 4), ("blur", 10)])
def test_the_network_has_the_answers_of_the_task(name, answers):
    planned, usual = (
        training_size(load_config(overrides=["model.name=mlp", f"task.name={task}"]))
        for task in (name, "supervised")
    )
    assert usual.parameters - planned.parameters == (10 - answers) * (100 + 1)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.stages=[{name = 'rotation', steps = '0:5'}]", r"stages\[0\]\.name.*4.*10"),
        ("task.stages=[{name = 'blur', steps = '500:'}]", r"stages\[0\]\.steps='500:'"),
    ],
)
def test_tasks_are_checked_without_the_data(override, said):
    with pytest.raises(ConfigError, match=said):
        training_size(load_config(overrides=["data.name=cifar10", override]))


def test_a_step_is_timed_without_the_data():
    config = load_config(
        overrides=["data.name=cifar10", "model.name=resnet8", "model.width=4", "train.batch_size=8"]
    )
    assert 0 < measure_step(config) < 10
    # These would be empty or overlap if an epoch were as short as the images made up for this.
    stages = "[{name='blur', steps='0:0.01ep, 391:800'}, {name='random-labels', steps='3ep:4ep'}]"
    assert 0 < measure_step(override(config, [f"task.stages={stages}"])) < 10
