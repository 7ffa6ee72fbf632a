import inspect

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn.utils import parameters_to_vector

import ckptlab
from ckptlab.errors import ConfigError, RunExistsError, StepError, StoreError
from ckptlab.record.recorder import Recorder
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from ckptlab.train.resume import resume_config
from ckptlab.train.sections import RecordConfig
from ckptlab.train.trainer import train

SMALL = [
    "model.name=resnet8",
    "model.width=4",
    "train.batch_size=128",
    "train.steps=30",
    "train.device=cpu",
    "record.fsync=false",
]
EXACT = (
    "step",
    "loss",
    "lr",
    "batch_accuracy",
    "digest",
    "eval_step",
    "eval_loss",
    "eval_accuracy",
)


def small(*overrides):
    return load_config(overrides=[*SMALL, *overrides])


def assert_same_run(a, b):
    a, b = open_store(a), open_store(b)
    assert a.state == b.state == "complete"
    for name in EXACT:
        assert np.array_equal(a.small(name), b.small(name), equal_nan=True), name
    for step in a.steps:
        for array in ("weights", "buffers"):
            assert np.array_equal(a.snapshot(int(step), array), b.snapshot(int(step), array))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    path = str(tmp_path_factory.mktemp("runs") / "a.zarr")
    train(small(), path)
    return path


def test_every_snapshot_is_that_of_a_loop_without_a_recorder(run):
    weights = xr.open_zarr(run).weights
    training = build(small())
    with training.numerics():
        for k in range(31):
            expected = parameters_to_vector(training.model.parameters()).detach().numpy()
            assert np.array_equal(weights.sel(step=k).values, expected)
            if k < 30:
                training.step(k)
        evaluation = training.evaluate()
    stored = open_store(run)
    assert stored.small("eval_step").tolist() == [0, 12, 24, 30]
    assert stored.small("eval_accuracy")[-1] == evaluation.accuracy
    assert stored.small("eval_loss")[-1] == evaluation.loss


def test_the_store_says_how_it_was_made(run):
    attributes = open_store(run).attributes
    assert attributes["config"] == small().model_dump(mode="json")
    assert attributes["seeds"] == {"init": 0, "order": 0, "augment": 0, "task": 0}
    assert attributes["threads"] == 1
    assert attributes["steps_per_epoch"] == 12
    assert attributes["classes"] == [str(digit) for digit in range(10)]


STAGES = "[{name = 'blur', steps = '0:1ep'}, {name = 'random-labels', steps = '17:25'}]"
TASKS = {
    "random-labels": ["task.name=random-labels"],
    "rotation": ["task.name=rotation"],
    "blur": ["task.name=blur", "task.factor=2"],
    "blur-rotation": ["task.name=blur-rotation", "train.task_seed=5"],
    "stages": [f"task.stages={STAGES}", "task.factor=2"],
}


def test_the_store_says_what_was_learnt(tmp_path):
    path = str(tmp_path / "a.zarr")
    train(small("train.steps=1", *TASKS["blur-rotation"]), path)
    attributes = open_store(path).attributes
    assert attributes["classes"] == ["0", "90", "180", "270"]
    assert attributes["seeds"] == {"init": 0, "order": 0, "augment": 0, "task": 5}
    assert list(attributes["task"]["training"]) == ["blur-rotation"]
    assert "sharp" in attributes["task"]["evaluation"]


def test_defaults_are_those_of_the_recorder():
    given = inspect.signature(Recorder).parameters
    settings = RecordConfig()
    for name in ("steps", "arrays", "memory", "flush_seconds", "sync_seconds", "fsync"):
        assert getattr(settings, name) == given[name].default, name
    # A loop of one's own may have steps of any length.
    assert (settings.codec, given["codec"].default) == ("dense", "auto")


class StoppedError(Exception):
    pass


def stop_and_resume(config, path):
    def stop(progress):
        if progress.step >= 20:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckptlab.train.trainer._REPORT_SECONDS", 0.0)
        with pytest.raises(StoppedError):
            train(config, path, on_progress=stop)
    assert open_store(path).state == "interrupted"
    assert open_store(path).steps[-1] == 20
    train(resume_config(path), path, resume=True)


def test_a_stopped_run_taken_up_again_is_the_same(run, tmp_path):
    path = str(tmp_path / "b.zarr")
    stop_and_resume(small(), path)
    assert_same_run(run, path)


@pytest.mark.parametrize("name", TASKS)
def test_so_is_one_of_any_task(name, tmp_path):
    whole, stopped = str(tmp_path / "whole.zarr"), str(tmp_path / "stopped.zarr")
    train(small(*TASKS[name]), whole)
    stop_and_resume(small(*TASKS[name]), stopped)
    assert_same_run(whole, stopped)


def test_every_update_of_a_run_with_stages_is_one_of_a_run_without(tmp_path):
    # No momentum: then a snapshot is all there is to an update.
    plain, path = "optim.momentum=0", str(tmp_path / "a.zarr")
    train(small(plain, *TASKS["stages"]), path)
    run = ckptlab.open_run(path)
    runs = {name: build(small(plain, *TASKS[name])) for name in ("blur", "random-labels")}
    runs["supervised"] = build(small(plain))
    for step in range(30):
        name = "blur" if step < 12 else "random-labels" if 17 <= step < 25 else "supervised"
        for other, training in runs.items():
            training.model.load_state_dict(run.state_dict(step))
            with training.numerics():
                training.step(step)
            after = parameters_to_vector(training.model.parameters()).detach().numpy()
            assert np.array_equal(after, open_store(path).snapshot(step + 1)) == (other == name)


def test_a_finished_run_is_extended_and_a_complete_one_left_alone(run, tmp_path):
    path = str(tmp_path / "c.zarr")
    train(small("train.steps=1ep"), path)
    before = open_store(path)
    train(resume_config(path), path, resume=True)
    assert open_store(path).attributes == before.attributes
    train(resume_config(path, ["train.steps=30"]), path, resume=True)
    assert_same_run(run, path)


def test_the_threads_of_the_run_are_used_again(run, tmp_path):
    path = str(tmp_path / "d.zarr")
    train(small("train.steps=5", "train.threads=2"), path)
    seen = []
    config = resume_config(path, ["train.steps=8"])
    train(config, path, resume=True, on_progress=lambda _: seen.append(torch.get_num_threads()))
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size=64", r"train\.batch_size=64.*128.*train\.steps and record\.memory"),
        ("optim.lr=0.2", r"optim\.lr=0\.2"),
        ("train.threads=2", r"train\.threads=2.*inexact"),
        ("train.steps=29", r"train\.steps=29.*not shortened"),
        ("train.stepz=29", r"train\.stepz"),
    ],
)
def test_what_may_not_change(run, override, said):
    with pytest.raises(ConfigError, match=said) as caught:
        resume_config(run, [override])
    assert "\n" not in str(caught.value)


def test_memory_and_with_permission_threads_may_change(run):
    assert resume_config(run, ["record.memory=2GiB"]).record.memory == "2GiB"
    config = resume_config(run, ["train.threads=2"], allow_inexact=True)
    assert config.train.threads == 2


def test_runs_that_cannot_be_taken_up(tmp_path):
    with pytest.raises(StoreError):
        resume_config(str(tmp_path / "absent.zarr"))
    path = str(tmp_path / "own.zarr")
    with Recorder(path, torch.nn.Linear(2, 2), fsync=False):
        pass
    with pytest.raises(ConfigError, match="outside ckptlab"):
        resume_config(path)


def test_another_torch_is_refused(run, tmp_path, monkeypatch):
    path = str(tmp_path / "e.zarr")
    train(small("train.steps=3"), path)
    config = resume_config(path, ["train.steps=5"])
    # The next release cannot be installed beside this one.
    monkeypatch.setattr(torch, "__version__", "99.0")
    with pytest.raises(ConfigError, match=r"torch.*'99\.0'.*inexact"):
        train(config, path, resume=True)
    train(config, path, resume=True, allow_inexact=True)
    assert open_store(path).steps[-1] == 5


def test_a_path_that_is_taken(run, tmp_path):
    with pytest.raises(RunExistsError):
        train(small(), run)
    path = str(tmp_path / "f.zarr")
    train(small("train.steps=2"), path)
    train(small("train.steps=3"), path, overwrite=True)
    assert open_store(path).steps.tolist() == [0, 1, 2, 3]


def test_steps_beyond_the_run(tmp_path):
    with pytest.raises(StepError, match="beyond the run"):
        train(small("record.steps=100:200"), str(tmp_path / "g.zarr"))
    assert not list(tmp_path.iterdir())


def test_a_range_that_is_empty_for_the_epochs_of_the_data_writes_nothing(tmp_path):
    for key in ("record", "eval"):
        with pytest.raises(StepError, match=rf"{key}\.steps='1ep:9'.*an epoch is 12 steps"):
            train(small(f"{key}.steps=1ep:9"), str(tmp_path / "g.zarr"))
    assert not list(tmp_path.iterdir())


def test_evaluations_follow_their_schedule(tmp_path):
    path = str(tmp_path / "h.zarr")
    train(small("train.steps=8", "eval.steps=2:6:3", "record.steps=0:3"), path)
    stored = open_store(path)
    assert stored.small("eval_step").tolist() == [2, 5, 8]
    assert stored.steps.tolist() == [0, 1, 2, 8]
    path = str(tmp_path / "i.zarr")
    train(small("train.steps=3", "eval.steps=none"), path)
    assert open_store(path).small("eval_step").tolist() == [3]


def test_progress_ends_at_the_last_step(tmp_path):
    reports = []
    train(small("train.steps=3"), str(tmp_path / "j.zarr"), on_progress=reports.append)
    last = reports[-1]
    assert (last.step, last.steps) == (3, 3)
    assert 0 <= last.accuracy <= 1
    assert last.loss > 0
    assert last.evaluation.accuracy >= 0
    assert last.recording.recorded == 4


def test_a_run_of_no_steps_is_its_initialisation(tmp_path):
    path = str(tmp_path / "k.zarr")
    train(small("train.steps=0"), path)
    stored = open_store(path)
    assert stored.steps.tolist() == [0]
    expected = parameters_to_vector(build(small()).model.parameters()).detach().numpy()
    assert np.array_equal(stored.snapshot(0), expected)
