import numpy as np
import pytest
import torch
from torch import nn

from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from ckptlab.train.optimizers import build_optimizer
from tests.trained import train_tiny

SETTINGS = {
    "sgd": ["optim.momentum=0.5"],
    "plain": ["optim.momentum=0", "optim.weight_decay=0"],
    "nesterov": ["optim.nesterov=true"],
    "nesterov without decay": ["optim.nesterov=true", "optim.weight_decay=0"],
    "adamw": ["optim.name=adamw", "optim.lr=0.01"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_gradients_are_those_of_the_loss(name, tmp_path):
    settings = ["model.name=mlp", "model.width=8", "train.steps=6", *SETTINGS[name]]
    path = train_tiny(tmp_path / "a.zarr", *settings, "record.arrays=weights,gradients")
    stored = open_store(path)
    training = build(load_config(overrides=[*settings, "train.device=cpu"]))
    for step in range(6):
        weights = torch.from_numpy(np.array(stored.snapshot(step)))
        nn.utils.vector_to_parameters(weights, training.model.parameters())
        batch = training.update.batch_at(step)
        loss = nn.functional.cross_entropy(training.model(batch.inputs), batch.targets)
        parts = torch.autograd.grad(loss, list(training.model.parameters()))
        expected = nn.utils.parameters_to_vector(parts).numpy()
        found = stored.snapshot(step + 1, "gradients")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_the_loop_over_tensors(name):
    config = load_config(overrides=SETTINGS[name]).optim
    vectors = []
    for foreach in (None, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        optimizer = build_optimizer(config, model)
        if foreach is False:
            optimizer.param_groups[0]["foreach"] = False
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).tanh().mean().backward()
            optimizer.step()
        vectors.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*vectors)
