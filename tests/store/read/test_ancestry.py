"""Step 0 of branches, against the vectors the trainer recorded."""

import shutil

import numpy as np
import pytest

import ckptlab
from ckptlab.errors import MissingStepError
from ckptlab.store.read.ancestry import find_ancestor, is_branch
from ckptlab.store.read.reader import open_store
from ckptlab.train.branch import branch_config, take
from ckptlab.train.trainer import train
from tests.trained import train_tiny


def branch_off(parent, step, path):
    stored = open_store(parent)
    config = branch_config(stored, overrides=["optim.lr=0.01"])
    train(config, str(path), start=take(stored, step, config, fresh_optimizer=True))
    return path


def ancestor_of(path):
    stored = open_store(path)
    first = stored.snapshot(int(stored.steps[0]))
    return find_ancestor(stored.path, stored.attributes, stored.layout, first)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    """A run, a branch at step 4, and a branch of that at step 8."""
    folder = tmp_path_factory.mktemp("lineage")
    first = train_tiny(folder / "a.zarr", "model.name=lenet")
    second = branch_off(first, 4, folder / "b.zarr")
    return first, second, branch_off(second, 8, folder / "c.zarr")


def test_a_branch_of_a_branch_descends_from_the_first_run(lineage):
    first, *branches = lineage
    for branch in branches:
        assert is_branch(open_store(branch).attributes)
        assert ancestor_of(branch).path == str(first)
    assert not is_branch(open_store(first).attributes)


def test_init_is_step_0_of_the_ancestor(lineage):
    first, _, last = (open_store(path) for path in lineage)
    flips = ckptlab.open_run(last.path).analyze("sign-flips", relative_to="init")
    initial = first.snapshot(0)
    kinds = first.layout.select()[first.layout.tensor_index()]
    expected = [
        (np.sign(last.snapshot(int(step))) * np.sign(initial) < 0)[kinds].mean()
        for step in last.steps
    ]
    np.testing.assert_allclose(flips.values, expected, rtol=1e-12)
    assert flips.values[0] > 0
    assert flips.attrs["relative_to_step"] == 0
    telemetry = ckptlab.open_run(last.path).analyze("telemetry")
    np.testing.assert_allclose(telemetry["sign_flips_init"], expected, rtol=1e-12)


def test_moved_together_they_find_each_other(lineage, tmp_path):
    for path in lineage:
        shutil.copytree(path, tmp_path / path.name)
    for path in lineage:
        path.rename(path.with_suffix(".away"))
    try:
        assert ancestor_of(tmp_path / "c.zarr").path == str(tmp_path / "a.zarr")
    finally:
        for path in lineage:
            path.with_suffix(".away").rename(path)


def test_an_ancestor_that_is_gone_or_replaced_is_said(lineage, tmp_path):
    kept = tmp_path / "b.zarr"
    parent = train_tiny(tmp_path / "a.zarr", "model.name=lenet")
    branch_off(parent, 4, kept)
    shutil.rmtree(parent)
    run = ckptlab.open_run(kept)
    with pytest.raises(MissingStepError, match=r"a\.zarr, which is not there.*relative_to=4"):
        run.analyze("sign-flips", relative_to="init")
    with pytest.warns(UserWarning, match="left out: relative_to=init: "):
        assert "sign_flips_init" not in run.analyze("telemetry")
    train_tiny(parent, "model.name=lenet", "train.seed=1")
    with pytest.raises(MissingStepError, match="another run now"):
        ancestor_of(kept)
    shutil.rmtree(parent)
    train_tiny(parent, "model.name=mlp")
    with pytest.raises(MissingStepError, match="other tensors"):
        ancestor_of(kept)


def test_an_attribute_sends_no_request_to_another_host(lineage, monkeypatch):
    opened = []
    monkeypatch.setattr("ckptlab.store.read.ancestry.open_store", opened.append)
    stored = open_store(lineage[1])
    origin = {**stored.attributes["branch"], "run": "s3://elsewhere/a.zarr"}
    with pytest.raises(MissingStepError, match="not there"):
        find_ancestor(stored.path, {**stored.attributes, "branch": origin}, stored.layout, None)
    assert not opened
