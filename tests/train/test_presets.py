import pytest

from ckptlab.train.config import load_config
from ckptlab.train.estimate import training_size
from ckptlab.train.presets import PRESETS

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
