import os

import numpy as np
import pytest
import torch

from ckptlab.errors import ConfigError, LayoutError, StepError
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.branch import Point, branch_config, take
from ckptlab.train.config import change, load_config
from ckptlab.train.initial_state import begin
from ckptlab.train.trainer import train
from tests.forks import fork_server

SETTINGS = [
    "model.name=resnet8",
    "model.width=4",
    "train.steps=50",
    "train.device=cpu",
    "train.threads=1",
    "optim.schedule=cosine",
    "record.fsync=false",
]
STEPS = 50


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("runs") / "parent.zarr")
    train(load_config(overrides=SETTINGS), path)
    return path


def branch(parent, path, step, *overrides, at=None, fresh=False, mask=None):
    stored = open_store(parent)
    config = branch_config(stored, overrides=overrides)
    start = take(stored, step, config, at=at, fresh_optimizer=fresh)
    train(config, str(path), start=start, mask=mask)
    return open_store(path)


def assert_goes_on_as(child, parent):
    for name in ("loss", "lr", "batch_accuracy"):
        assert np.array_equal(child.small(name)[1:], parent.small(name)[-len(child.steps) + 1 :])
    for step in child.steps:
        for array in ("weights", "buffers", "buffers_int64"):
            assert np.array_equal(
                child.snapshot(int(step), array), parent.snapshot(int(step), array)
            )
    assert child.small("eval_accuracy")[-1] == parent.small("eval_accuracy")[-1]


@pytest.mark.parametrize(("step", "how"), [(31, "stored"), (40, "replayed"), (7, "replayed")])
def test_a_branch_goes_on_bit_for_bit_as_its_parent(parent, tmp_path, step, how):
    child = branch(parent, tmp_path / "child.zarr", step)
    assert child.attributes["branch"] == {
        "run": parent,
        "step": step,
        "optimizer": how,
        "start": step,
        "new_tensors": [],
    }
    assert child.steps.tolist() == list(range(step, STEPS + 1))
    assert_goes_on_as(child, open_store(parent))
    first = [child.small(name)[0] for name in ("loss", "lr")]
    assert np.isnan(first).all()
    assert np.isnan(child.small("gradient_norm")[:, 0]).all()


def test_a_branch_of_a_branch_and_of_its_own_beginning(parent, tmp_path):
    branch(parent, tmp_path / "one.zarr", 40)
    for step in (44, 40):
        child = branch(str(tmp_path / "one.zarr"), tmp_path / f"{step}.zarr", step)
        assert child.attributes["branch"]["optimizer"] == "replayed"
        assert_goes_on_as(child, open_store(parent))


def test_a_step_that_was_not_recorded_is_repeated(parent, tmp_path):
    train(load_config(overrides=[*SETTINGS, "record.steps=0,10,50"]), str(tmp_path / "few.zarr"))
    for fresh in (False, True):
        child = branch(
            str(tmp_path / "few.zarr"),
            tmp_path / f"child-{fresh}.zarr",
            20,
            "record.steps=0:",
            fresh=fresh,
        )
        assert np.array_equal(child.snapshot(20), open_store(parent).snapshot(20))
        same = np.array_equal(child.snapshot(50), open_store(parent).snapshot(50))
        assert same is not fresh


def test_a_fresh_optimizer_begins_without_momentum(parent, tmp_path):
    child = branch(parent, tmp_path / "child.zarr", 31, fresh=True)
    assert child.attributes["branch"]["optimizer"] == "fresh"
    stored, training = open_store(parent), build(load_config(overrides=SETTINGS))
    flat = torch.from_numpy(stored.snapshot(31))
    torch.nn.utils.vector_to_parameters(flat, training.model.parameters())
    statistics = torch.from_numpy(stored.snapshot(31, "buffers"))
    floats = [b for b in training.model.buffers() if b.is_floating_point()]
    for buffer, part in zip(floats, statistics.split([len(b) for b in floats]), strict=True):
        buffer.copy_(part)
    with training.numerics():
        for k in range(31, STEPS):
            training.step(k)
    expected = torch.nn.utils.parameters_to_vector(training.model.parameters()).detach().numpy()
    assert np.array_equal(child.snapshot(STEPS), expected)
    assert not np.array_equal(child.snapshot(STEPS), stored.snapshot(STEPS))


def test_schedule_and_order_go_on_from_the_number_the_step_is_given(parent, tmp_path):
    child = branch(parent, tmp_path / "child.zarr", 31, at=0, fresh=True)
    whole = open_store(parent)
    assert child.steps.tolist() == list(range(STEPS + 1))
    assert np.array_equal(child.small("lr")[1:], whole.small("lr")[1:])
    assert np.array_equal(child.snapshot(0), whole.snapshot(31))
    stored = open_store(parent)
    config = branch_config(stored)
    again = build(config)
    with again.numerics():
        begin(again, take(stored, 31, config, at=0, fresh_optimizer=True))
        loss = again.step(0).loss
    assert child.small("loss")[1] == float(loss)


def _die(_):
    os._exit(7)


def _train_and_die(parent, path):
    stored = open_store(parent)
    config = branch_config(stored, overrides=["train.steps=45"])
    train(config, path, start=take(stored, 31, config), on_progress=_die)


def test_a_branch_killed_before_its_first_commit_is_begun_again(parent, tmp_path):
    config = branch_config(open_store(parent), overrides=["train.steps=45"])
    path = str(tmp_path / "child.zarr")
    process = fork_server().Process(target=_train_and_die, args=(parent, path))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert not len(open_store(path).steps)
    train(config, path, resume=True)
    branch(parent, tmp_path / "other.zarr", 31, "train.steps=45")
    child, other = open_store(path), open_store(tmp_path / "other.zarr")
    assert child.state == "complete"
    assert np.array_equal(child.small("digest"), other.small("digest"))
    assert child.steps.tolist() == list(range(31, 46))


def test_a_new_output_layer_where_the_number_of_classes_is_another(tmp_path):
    data = ["data.name=synthetic", "data.image_size=8", "data.samples=64", "train.steps=3"]
    own = [*SETTINGS, *data, "data.classes=4"]
    train(load_config(overrides=own), str(tmp_path / "four.zarr"))
    child = branch(
        str(tmp_path / "four.zarr"), tmp_path / "six.zarr", 3, "data.classes=6", at=0, fresh=True
    )
    assert child.attributes["branch"]["new_tensors"] == ["fc.weight", "fc.bias"]
    parent = open_store(tmp_path / "four.zarr")
    fresh = build(change(load_config(overrides=own), data={"classes": 6}))
    body = child.layout["fc.weight"].offset
    assert np.array_equal(child.snapshot(0)[:body], parent.snapshot(3)[:body])
    head = torch.nn.utils.parameters_to_vector(fresh.model.fc.parameters()).detach().numpy()
    assert np.array_equal(child.snapshot(0)[body:], head)
    with pytest.raises(LayoutError, match=r"fc\.weight, fc\.bias is new.*fresh optimizer"):
        branch(str(tmp_path / "four.zarr"), tmp_path / "x.zarr", 3, "data.classes=6")


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["train.threads=2"], ConfigError, r"train\.threads=2 differs from 1"),
        (["train.deterministic=false"], ConfigError, r"train\.deterministic=False differs"),
        (["model.width=8"], LayoutError, r"the network has 'conv1\.weight' \(8, 1, 3, 3\)"),
        (["model.name=resnet14"], LayoutError, r"layer1\.1\.conv1\.weight.*none of that name"),
        (["model.name=lenet", "model.width=none"], LayoutError, r"has \(4, 1, 3, 3\) float32"),
        (["optim.name=adamw"], LayoutError, "AdamW has .* instead.*fresh optimizer"),
        (["train.steps=20"], StepError, r"train\.steps=20 is before step 31"),
    ],
)
def test_what_is_no_exact_branch_is_refused(parent, tmp_path, overrides, kind, message):
    with pytest.raises(kind, match=message):
        branch(parent, tmp_path / "child.zarr", 31, *overrides)
    assert not (tmp_path / "child.zarr").exists()


def test_another_optimizer_may_begin_fresh(parent, tmp_path):
    child = branch(
        parent, tmp_path / "child.zarr", 31, "optim.name=adamw", "optim.lr=0.001", fresh=True
    )
    assert "optimizer_exp_avg" in child.arrays


def test_weights_that_repeating_does_not_give_are_refused(parent, tmp_path):
    stored = open_store(parent)
    stored.attributes["config"] = {
        **stored.attributes["config"],
        "train": {**stored.attributes["config"]["train"], "order_seed": 1},
    }
    config = branch_config(stored)
    with pytest.raises(ConfigError, match="up to step 40 gave other weights than were recorded"):
        take(stored, 40, config)
    start = take(stored, 40, config, allow_inexact=True)
    assert np.array_equal(start.vectors["weights"], stored.snapshot(40))


def test_points_are_read_and_refused(parent):
    stored = open_store(parent)
    for text, step in (("a@b.zarr@40", 40), ("x@final", 50), ("x@init", 0), ("x@2ep", 24)):
        assert Point.parse(text).resolve(stored) == step
    assert Point.parse("a@b.zarr@40").path == "a@b.zarr"
    for text in ("run.zarr", "@5", "run.zarr@"):
        with pytest.raises(ConfigError, match="write RUN@STEP"):
            Point.parse(text)
    for text in ("x@51", "x@70it"):
        with pytest.raises(StepError, match=r"lies outside .*accepted: 0 to 50"):
            Point.parse(text).resolve(stored)
