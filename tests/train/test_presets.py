import numpy as np
import pytest

from ckptlab.record.schedule import parse_schedule
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import load_config
from ckptlab.train.estimate import training_size
from ckptlab.train.presets import EVALUATED, PRESETS
from tests.trained import train_tiny

NAMES = list(PRESETS)


def test_every_network_of_the_study_has_one():
    assert {
        "resnet20-cifar10",
        "resnet56-cifar10",
        "resnet18-cifar10",
        "vgg13-cifar10",
        "wrn-16-8-cifar10",
        "lenet",
        "mlp",
    } <= set(NAMES)


@pytest.mark.parametrize(
    ("name", "parameters", "steps"),
    [
        ("resnet20-cifar10", 272_474, 62_560),
        ("resnet56-cifar10", 855_770, 62_560),
        ("resnet18-cifar10", 11_181_642, 62_560),
        ("vgg13-cifar10", 9_416_010, 125_120),
        ("wrn-16-8-cifar10", 10_961_370, 62_560),
    ],
)
def test_the_recipe_of_the_study(name, parameters, steps):
    config = load_config(preset=name)
    planned = training_size(config)
    assert planned.parameters == parameters
    assert planned.steps == steps
    # 0 to 4000, and the last.
    assert planned.recorded_steps == 4002
    assert planned.raw_bytes == 4 * parameters * 4002
    assert config.optim.milestones == ("80ep", "120ep")
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.1, 0.9, 1e-4)
    assert config.optim.gamma == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_planned(name):
    assert training_size(load_config(preset=name)).recorded_steps > 0


def test_every_phase_of_the_study_ends_in_an_evaluation():
    config = load_config(preset="resnet20-cifar10")
    evaluated = parse_schedule(config.eval.steps, 391)
    assert all(step in evaluated for step in (0, 10, 500, 2000, 4000))
    assert np.diff([k for k in range(1, 4001) if k in evaluated]).max() <= 391


def test_evaluations_change_no_weight(tmp_path):
    plain, often = tmp_path / "a.zarr", tmp_path / "b.zarr"
    settings = ["model.name=resnet8", "model.width=4", "train.steps=14"]
    train_tiny(plain, *settings, "eval.steps=none")
    train_tiny(often, *settings, f"eval.steps='{EVALUATED}'")
    assert open_store(often).small("eval_step").tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 13, 14]
    assert np.array_equal(open_store(plain).small("digest"), open_store(often).small("digest"))
