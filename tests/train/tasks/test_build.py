import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.registry import resolve
from ckptlab.train.config import parse_config
from ckptlab.train.tasks.build import build_task, describe_tasks
from ckptlab.train.tasks.registry import TASKS
from tests.train.tasks.samples import seeds, synthetic, training

NAMES = list(TASKS)
SAME_ANSWERS = ["supervised", "random-labels", "blur"]


@pytest.mark.parametrize("entry", TASKS.values(), ids=NAMES)
def test_what_is_built_is_what_the_entry_says(entry):
    data = synthetic(classes=5)
    task = build_task(parse_config({"task": {"name": entry.name}}).task, data, seeds())
    assert task.answers == (entry.answers or data.classes)
    assert task.classes == len(task.answers)
    assert resolve(entry.build).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_same_whatever_was_asked_for_before(name):
    run = training(f"task.name={name}")
    first = run.update.batch_at(7)
    for other in (3, 1000, 8):
        run.update.batch_at(other)
    again = run.update.batch_at(7)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert run.model(first.inputs).shape == (8, len(run.problem.answers))


def same(one, other):
    return all(map(torch.equal, one[:2], other[:2]))


@settings(max_examples=15, deadline=None)
@given(
    base=st.sampled_from(SAME_ANSWERS),
    lengths=st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 6), st.sampled_from(SAME_ANSWERS)), max_size=4
    ),
)
def test_each_update_has_the_task_of_its_stage(base, lengths):
    plain = {name: training(f"task.name={name}") for name in SAME_ANSWERS}
    expected, stages = [], []
    for gap, length, name in lengths:
        expected += [base] * gap
        stages.append(f"{{name = '{name}', steps = '{len(expected)}:{len(expected) + length}'}}")
        expected += [name] * length
    expected += [base] * 3
    # The order of the list does not matter.
    listed = ", ".join(reversed(stages))
    run = training(f"task.name={base}", f"task.stages=[{listed}]")
    for step, name in enumerate(expected):
        assert same(run.update.batch_at(step), plain[name].update.batch_at(step))
    assert list(run.problem.answers) == list(plain[base].problem.answers)


def test_stages_in_epochs_and_several_stretches_of_one():
    run = training("task.stages=[{name = 'blur', steps = '1ep:2ep, 30:32'}]")
    sharp, blurry = training(), training("task.name=blur")
    assert run.steps_per_epoch == 9
    for step in range(40):
        expected = blurry if 9 <= step < 18 or step in (30, 31) else sharp
        assert same(run.update.batch_at(step), expected.update.batch_at(step))


def test_evaluations_are_those_of_the_task_and_not_of_a_stage():
    plain = training("task.name=rotation")
    run = training("task.name=rotation", "task.stages=[{name = 'blur-rotation', steps = '0:'}]")
    assert run.evaluate() == plain.evaluate()
    assert not same(run.update.batch_at(0), plain.update.batch_at(0))
    index = torch.arange(20)
    assert same(run.problem.train.take(index), plain.problem.train.take(index))


def test_words_for_what_is_trained_and_evaluated():
    stages = [{"name": "blur", "steps": "0:2"}, {"name": "blur", "steps": "4:5"}]
    words = describe_tasks(parse_config({"task": {"name": "random-labels", "stages": stages}}).task)
    assert list(words["training"]) == ["random-labels", "blur"]
    assert "antialiased" in words["training"]["blur"]
    assert "chance" in words["evaluation"]
