from functools import partial

import pytest
import torch
from torch import nn

from ckptlab.errors import ConfigError, UnknownNameError
from ckptlab.problems.problem import Problem
from ckptlab.train.datasets.registry import DataShape
from ckptlab.train.models.build import (
    build_model,
    build_network,
    lay_channels_last,
    model_size,
    try_forward,
)
from ckptlab.train.models.registry import MODELS, ModelConfig, find_model


def shape(channels=3, size=32, classes=10):
    return DataShape(
        channels=channels, height=size, width=size, classes=classes, train=100, test=10
    )


def built(config, image, seed):
    return build_model(partial(build_network, config, image), seed)


def counts(config, image):
    return model_size(partial(build_network, config, image))


def draws_randomness(model, image, batch_size):
    x = torch.zeros(4, image.channels, image.height, image.width)
    examples = (x, torch.zeros(4, dtype=torch.int64))
    loss = nn.functional.cross_entropy
    problem = Problem(model=lambda: model, loss=loss, train=examples, test=examples)
    return try_forward(problem, model, batch_size)


@pytest.mark.parametrize(
    ("name", "image", "parameters"),
    [
        ("resnet20", shape(), 272_474),
        ("resnet56", shape(), 855_770),
        ("resnet18", shape(), 11_181_642),
        ("vgg13", shape(), 9_416_010),
        ("wrn-16-8", shape(), 10_961_370),
        # LeNet-300-100 and LeNet-5 on MNIST.
        ("mlp", shape(1, 28), 266_610),
        ("lenet", shape(1, 28), 61_706),
        # torchvision's published count, with its 1000 classes.
        ("torchvision:mobilenet_v2", shape(size=224, classes=1000), 3_504_872),
    ],
)
def test_parameter_counts(name, image, parameters):
    assert counts(ModelConfig(name=name), image).parameters == parameters


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet20", "resnet18", "vgg11", "wrn-10-1"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_built_in_networks_take_every_built_in_data_set(name, channels, size):
    model = built(ModelConfig(name=name), shape(channels, size, 7), 0)
    images = torch.zeros(2, channels, size, size)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    counted = counts(ModelConfig(name=name), shape(channels, size, 7))
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.buffers == sum(b.numel() for b in model.buffers())


def test_width_widens():
    narrow, wide = (
        model_size(
            partial(build_network, ModelConfig(name="resnet20", width=width), shape())
        ).parameters
        for width in (4, 32)
    )
    assert narrow < 272_474 / 10
    assert wide > 272_474 * 3
    assert model_size(
        partial(build_network, ModelConfig(name="mlp", width=30), shape(1, 8))
    ).parameters == (65 * 30 + 31 * 10 + 11 * 10)


def test_initial_weights_are_those_of_the_study():
    model = built(ModelConfig(name="vgg13"), shape(), 0)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 10
    for layer in [*convolutions, model.fc]:
        weight = layer.weight.detach()
        fan_in = weight[0].numel()
        expected = (2 / fan_in) ** 0.5
        # Five standard errors of a standard deviation.
        assert weight.std().item() == pytest.approx(expected, rel=5 / (2 * weight.numel()) ** 0.5)
        assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5
        assert layer.bias.abs().max().item() <= fan_in**-0.5
        assert layer.bias.std() > 0
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([norm.weight.detach() for norm in norms])
    assert scales.min() >= 0
    assert scales.max() <= 1
    assert scales.mean().item() == pytest.approx(0.5, abs=0.05)
    assert scales.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert all(norm.bias.abs().max() == 0 for norm in norms)


def test_weights_depend_on_the_seed_alone():
    config = ModelConfig(name="resnet8", width=4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = built(config, shape(), 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = built(config, shape(), 0)
    other = built(config, shape(), 1)
    vectors = [nn.utils.parameters_to_vector(m.parameters()) for m in (first, second, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_randomness_is_found_by_trying():
    image = shape(size=32)
    assert not draws_randomness(built(ModelConfig(name="vgg11"), image, 0), image, 2)
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 10))
    assert draws_randomness(dropout, image, 2)


def test_networks_that_do_not_fit_are_refused_in_one_line():
    small = shape(size=8)
    model = built(ModelConfig(name="torchvision:alexnet"), small, 0)
    with pytest.raises(ConfigError, match=r"3 x 8 x 8.*data\.image_size") as caught:
        draws_randomness(model, small, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="3 channels"):
        built(ModelConfig(name="torchvision:alexnet"), shape(1, 64), 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'torchvision:resnet50'"):
        built(ModelConfig(name="torchvision:resnet5O"), shape(), 0)


@pytest.mark.parametrize("family", MODELS.values(), ids=lambda family: family.examples[0])
def test_examples_belong_to_their_family(family):
    for name in family.examples:
        assert find_model(name)[0] is family


@pytest.mark.parametrize(("capability", "hooked"), [("AVX2", 1), ("AVX512", 0)])
def test_narrow_strided_convolutions_are_kept_from_a_fault_of_torch(
    monkeypatch, capability, hooked
):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    model = built(ModelConfig(name="resnet8", width=4), shape(), 0)
    narrow = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m._forward_pre_hooks]
    assert len(narrow) == hooked
    for module in narrow:
        seen = []
        module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        module(torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last))
        assert seen[0].is_contiguous()
    lay_channels_last(model)
    assert all(module.weight.stride() == (4, 1, 1, 1) for module in narrow)
    assert model.get_parameter("conv1.weight").is_contiguous(memory_format=torch.channels_last)
    if hooked:  # the other would overrun on a machine with AVX2
        model(torch.randn(8, 3, 8, 8)).sum().backward()
