"""The Python calls do what the command line does."""

from __future__ import annotations

import numpy as np
import pytest

import ckptlab
from ckptlab.errors import ConfigError, RunExistsError, StepError
from tests.cli.commands import ckptlab as command

SETTINGS = ["model.name=mlp", "model.width=6", "train.steps=20", "train.threads=1"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = tmp_path_factory.mktemp("shortcuts") / "parent.zarr"
    return ckptlab.record_training(path, SETTINGS)


def test_recording_equals_the_command(parent, tmp_path):
    options = [word for setting in SETTINGS for word in ("-S", setting)]
    done = command("record", "-o", tmp_path / "run.zarr", *options)
    assert done.returncode == 0, done.stderr
    twin = ckptlab.open_run(tmp_path / "run.zarr")
    for step in parent.steps:
        np.testing.assert_array_equal(twin.snapshot(step), parent.snapshot(step))


def test_a_run_is_extended_as_if_it_had_never_stopped(parent, tmp_path):
    path = tmp_path / "run.zarr"
    ckptlab.record_training(path, [*SETTINGS, "train.steps=12"])
    longer = ckptlab.record_training(path, ["train.steps=20"], resume=True)
    for step in parent.steps:
        np.testing.assert_array_equal(longer.snapshot(step), parent.snapshot(step))
    with pytest.raises(ConfigError, match="takes the settings from the run"):
        ckptlab.record_training(path, preset="resnet20-cifar10", resume=True)


def test_a_branch_repeats_its_parent_or_leaves_it(parent, tmp_path):
    same = ckptlab.record_branch(tmp_path / "same.zarr", parent, 7)
    np.testing.assert_array_equal(same.snapshot("final"), parent.snapshot("final"))
    other = ckptlab.record_branch(tmp_path / "other.zarr", parent.path, 7, ["optim.lr=0.01"])
    np.testing.assert_array_equal(other.snapshot(7), parent.snapshot(7))
    assert not np.array_equal(other.snapshot("final"), parent.snapshot("final"))


def test_a_report_is_one_page_that_names_its_runs(parent, tmp_path):
    path = ckptlab.write_report([parent, parent.path], tmp_path / "r.html", names=["one", "two"])
    page = (tmp_path / "r.html").read_text()
    assert path == str(tmp_path / "r.html")
    assert "one" in page
    assert "two" in page


def test_what_is_wrong_is_said_before_anything_is_written(parent, tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.speed"):
        ckptlab.record_training(tmp_path / "a.zarr", ["optim.speed=3"])
    with pytest.raises(RunExistsError):
        ckptlab.record_training(parent.path, SETTINGS)
    with pytest.raises(StepError):
        ckptlab.record_branch(tmp_path / "b.zarr", parent, 300)
    assert list(tmp_path.iterdir()) == []
