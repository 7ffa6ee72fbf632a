"""Kernels of a step, counted by what torch dispatches on a CPU."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ckptlab.train.assemble import build
from ckptlab.train.config import load_config

ALLOCATE = ("aten.empty", "aten.new_empty", "profiler.")
RESNET20 = [
    "model.name=resnet20",
    "data.name=synthetic",
    "data.image_size=32",
    "data.samples=8",
    "data.flip=true",
    "data.crop=4",
    "train.batch_size=4",
    "train.device=cpu",
    "train.threads=1",
]


class Kernels(TorchDispatchMode):
    """Operations that compute: neither views nor allocations."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view and not str(function).startswith(ALLOCATE):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def kernels(*overrides):
    """What one update does, as a graph on a GPU holds it: step and draws lie in tensors."""
    training = build(load_config(overrides=[*RESNET20, *overrides]))
    update, counter = training.update, torch.zeros((), dtype=torch.int64)
    # As on a GPU, one kernel updates all tensors.
    for group in update.optimizer.param_groups:
        group |= {"foreach": False, "fused": True}
    with training.numerics():
        stage = update.problem.train.at(0)
        drawn = update.drawn_at(stage, 0).clone()
        update.update(stage, drawn, counter)
        with Kernels() as counted:
            update.update(stage, drawn, counter)
    return counted.found


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_step_of_resnet20_has_at_most_200_kernels(layout):
    """Before, 344 by this count, of which 148 drew random numbers and 19 copied gradients."""
    found = kernels(f"train.layout={layout}")
    assert found.total() <= 200
    # Nothing is drawn, and no gradient is copied to another layout.
    assert found["aten.bitwise_xor.Tensor"] == 0
    assert found["aten.copy_.default"] <= 2


def test_mixed_layouts_copy_the_gradient_of_every_convolution():
    assert kernels()["aten.copy_.default"] > 15
