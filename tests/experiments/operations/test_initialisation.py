"""Standard deviations of initialisations, against torch's own formulas."""

import math

import numpy as np
import pytest

from ckptlab.experiments.operations.initialisation import (
    drawn_std,
    fresh_weights,
    is_kaiming,
    kaiming_std,
    layout_of,
)
from ckptlab.train.config import load_config


def config_of(*settings: str):
    return load_config(overrides=["data.name=synthetic", "data.image_size=32", *settings])


def prunable_of(layout):
    return [(k, tensor) for k, tensor in enumerate(layout.tensors) if tensor.prunable]


@pytest.mark.parametrize("model", ["mlp", "resnet8", "lenet"])
def test_built_in_networks_are_drawn_with_the_deviation_that_noise_is_scaled_by(model):
    config = config_of(f"model.name={model}")
    assert is_kaiming(config)
    layout = layout_of(config)
    expected, drawn = kaiming_std(layout), drawn_std(config)
    for k, tensor in prunable_of(layout):
        assert expected[k] == math.sqrt(2 / math.prod(tensor.shape[1:]))
        assert drawn[k] == pytest.approx(expected[k], rel=0.05)


def test_networks_of_torchvision_have_the_deviation_that_torch_draws_with():
    config = config_of("model.name=torchvision:shufflenet_v2_x0_5")
    assert not is_kaiming(config)
    layout, drawn = layout_of(config), drawn_std(config)
    step_0 = fresh_weights(config, 17)
    for k, tensor in prunable_of(layout):
        # torch's default: uniform within ±1 / √fan_in.
        expected = 1 / math.sqrt(3 * math.prod(tensor.shape[1:]))
        assert drawn[k] == pytest.approx(expected, rel=0.03), tensor.name
        part = step_0[tensor.offset : tensor.offset + tensor.size]
        assert np.std(part) == pytest.approx(drawn[k], rel=4 / math.sqrt(2 * tensor.size) + 0.01)
