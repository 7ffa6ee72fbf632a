from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import ConfigError
from ckptlab.train.config import load_config, parse_config
from ckptlab.train.tasks.fit import count_answers, stage_schedules
from tests.train.tasks.samples import SHAPE


def task(**settings):
    return parse_config({"task": settings}).task


def stages(*pairs):
    return task(stages=[{"name": name, "steps": steps} for name, steps in pairs])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("supervised", 10),
        ("random-labels", 10),
        ("blur", 10),
        ("rotation", 4),
        ("blur-rotation", 4),
    ],
)
def test_answers(name, count):
    assert count_answers(task(name=name), SHAPE) == count


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "rotation"}, r"task\.name='rotation'.*square.*8 x 10.*image_size"),
        ({"name": "blur-rotation"}, r"task\.name='blur-rotation'.*square"),
        ({"name": "blur", "factor": 9}, r"task\.name='blur'.*8 x 10.*by 9.*at most 8"),
        (
            {"factor": 9, "stages": [{"name": "blur", "steps": "0:2"}]},
            r"task\.stages\[0\]\.name='blur'.*by 9.*task\.stages\[0\]\.factor=\.\.\. of at most 8",
        ),
        (
            {"stages": [{"name": "blur", "steps": "0:2"}, {"name": "rotation", "steps": "2:4"}]},
            r"task\.stages\[1\]\.name='rotation'.*square",
        ),
    ],
)
def test_images_that_a_task_cannot_use(settings, said):
    config = task(**settings)
    with pytest.raises(ConfigError, match=said) as caught:
        count_answers(config, replace(SHAPE, width=10))
    assert "\n" not in str(caught.value)


def test_stages_need_as_many_answers_as_the_task():
    config = stages(("blur", "0:2"), ("rotation", "5:9"))
    with pytest.raises(
        ConfigError, match=r"task\.stages\[1\]\.name='rotation' has 4.*'supervised' has 10"
    ):
        count_answers(config, SHAPE)
    assert count_answers(config, replace(SHAPE, classes=4)) == 4
    turning = task(name="rotation", stages=[{"name": "blur-rotation", "steps": "0:2"}])
    assert count_answers(turning, SHAPE) == 4


bounds = st.tuples(st.integers(0, 30), st.none() | st.integers(1, 12))


@given(ranges=st.lists(st.lists(bounds, min_size=1, max_size=3), max_size=4))
def test_overlaps_by_brute_force(ranges):
    texts = [
        ", ".join(f"{a}:{'' if length is None else a + length}" for a, length in stage)
        for stage in ranges
    ]
    held = [
        {k for a, length in stage for k in range(a, 60 if length is None else a + length)}
        for stage in ranges
    ]
    config = stages(*(("blur", text) for text in texts))
    first = next(
        (
            (one, other, min(held[one] & held[other]))
            for other in range(len(held))
            for one in range(other)
            if held[one] & held[other]
        ),
        None,
    )
    if first is None:
        schedules = stage_schedules(config, 60, 10)
        assert [set(schedule.steps(60).tolist()) for schedule in schedules] == held
        return
    with pytest.raises(ConfigError) as caught:
        stage_schedules(config, 60, 10)
    one, other, step = first
    assert f"task.stages[{other}].steps={texts[other]!r} overlaps task.stages[{one}]" in str(
        caught.value
    )
    assert f"from step {step} on" in str(caught.value)


def test_epochs_are_those_of_the_run():
    (schedule,) = stage_schedules(stages(("blur", "1ep:2ep, 30:3ep")), 500, 12)
    assert schedule.steps(500).tolist() == [*range(12, 24), *range(30, 36)]
    with pytest.raises(ConfigError, match=r"task\.stages\[1\].*from step 40"):
        stage_schedules(stages(("blur", "0:4ep"), ("blur", "40:50")), 500, 12)
    stage_schedules(stages(("blur", "0:4ep"), ("blur", "40:50")), 500, 10)


@pytest.mark.parametrize(
    ("text", "steps", "said"),
    [
        ("0:0.01ep", 500, r"task\.stages\[0\]\.steps='0:0\.01ep'.*holds no step"),
        ("500:", 500, r"task\.stages\[0\]\.steps='500:' starts a range at step 500.*0 to 499"),
        ("0:2, 50ep:60ep", 500, r"starts a range at step 600"),
    ],
)
def test_ranges_that_do_not_fit_the_run(text, steps, said):
    with pytest.raises(ConfigError, match=said):
        stage_schedules(stages(("blur", text)), steps, 12)


def test_a_stage_may_end_beyond_the_run():
    (schedule,) = stage_schedules(stages(("blur", "0:40ep")), 5, 12)
    assert all(step in schedule for step in range(5))


def test_the_settings_of_a_stage_come_before_those_of_the_task():
    given_ = "task.stages=[{name='blur', steps='0:2'}, {name='blur', steps='2:4', factor=3}]"
    config = load_config(overrides=[given_, "task.factor=2"])
    assert [stage.factor for stage in config.task.stages] == [2, 3]
