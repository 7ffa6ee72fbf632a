import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, prune

from ckptlab.errors import LayoutError
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from ckptlab.train.initial_state import begin
from ckptlab.train.sparse import Sparsity
from ckptlab.train.trainer import train

SETTINGS = [
    "model.name=resnet8",
    "model.width=4",
    "train.device=cpu",
    "train.threads=1",
    "record.fsync=false",
    "train.steps=200",
]


def random_mask(model, share=0.7, seed=0):
    """True where kept; convolutions and linear weights are pruned."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.random(p.numel()) > share if p.ndim > 1 else np.ones(p.numel(), bool)
        for p in model.parameters()
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "optimizer",
    [["optim.weight_decay=0.01"], ["optim.name=adamw", "optim.lr=0.01"]],
    ids=["sgd", "adamw"],
)
def test_pruned_weights_are_zero_at_every_step(tmp_path, optimizer):
    config = load_config(overrides=[*SETTINGS, *optimizer])
    mask = random_mask(build(config).model)
    train(config, str(tmp_path / "a.zarr"), mask=mask)
    stored = open_store(tmp_path / "a.zarr")
    assert np.array_equal(stored.mask(), mask)
    weights = np.concatenate([stored.weights.read_block(j) for j in range(7)])
    assert len(weights) == 201
    # Bit for bit: no negative zeros either.
    assert not weights.view(np.uint32)[:, ~mask].any()
    assert weights[-1][mask].all()
    for step in stored.anchors:
        for values in stored.anchor(int(step)).states.values():
            assert not values[~mask].any()


def test_it_trains_as_torch_prune_does(tmp_path):
    config = load_config(overrides=[*SETTINGS, "train.steps=40"])
    reference, mask = build(config), random_mask(build(config).model)
    offset = 0
    for name, parameter in list(reference.model.named_parameters()):
        part = torch.from_numpy(mask[offset : offset + parameter.numel()]).view(parameter.shape)
        offset += parameter.numel()
        if not part.all():
            module = reference.model.get_submodule(name.rpartition(".")[0])
            prune.custom_from_mask(module, "weight", part)
    optimizer = torch.optim.SGD(
        reference.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    with reference.numerics():
        for k in range(40):
            batch = reference.update.batch_at(k)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(
                reference.model(batch.inputs), batch.targets
            ).backward()
            optimizer.step()
    for module in reference.model.modules():
        if prune.is_pruned(module) and hasattr(module, "weight_orig"):
            prune.remove(module, "weight")
    expected = dict(reference.model.named_parameters())
    train(config, str(tmp_path / "a.zarr"), mask=mask)
    stored = open_store(tmp_path / "a.zarr")
    found = stored.snapshot(40)
    for row in stored.layout.tensors:
        values = expected[row.name].detach().numpy().reshape(-1)
        np.testing.assert_allclose(found[row.offset : row.offset + row.size], values, atol=1e-6)


def test_a_run_taken_up_again_keeps_its_mask(tmp_path):
    config = load_config(overrides=[*SETTINGS, "train.steps=20"])
    mask = random_mask(build(config).model)
    train(config, str(tmp_path / "a.zarr"), mask=mask)
    longer = load_config(overrides=[*SETTINGS, "train.steps=40"])
    train(longer, str(tmp_path / "a.zarr"), resume=True)
    train(longer, str(tmp_path / "b.zarr"), mask=mask)
    a, b = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert np.array_equal(a.small("digest"), b.small("digest"))


def test_states_of_pruned_weights_are_zeroed_and_nan_too():
    training = build(load_config(overrides=SETTINGS))
    mask = random_mask(training.model)
    training.step(0)
    with torch.no_grad():
        next(training.model.parameters()).fill_(torch.nan)
    Sparsity(training.model, mask).apply(training.optimizer)
    flat = parameters_to_vector(training.model.parameters()).detach().numpy()
    assert not flat[~mask].any()
    momenta = [training.optimizer.state[p]["momentum_buffer"] for p in training.model.parameters()]
    assert not parameters_to_vector(momenta).numpy()[~mask].any()
    assert parameters_to_vector(momenta).numpy()[mask].any()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_pruned_weights_are_zero_in_a_run_that_diverges(tmp_path, optimizer):
    config = load_config(
        overrides=[*SETTINGS, f"optim.name={optimizer}", "optim.lr=1e30", "train.steps=6"]
    )
    mask = random_mask(build(config).model)
    train(config, str(tmp_path / "a.zarr"), mask=mask)
    weights = open_store(tmp_path / "a.zarr").weights.read_block(0)
    assert not np.isfinite(weights[-1][mask]).all()
    assert not weights[:, ~mask].any()


def test_a_mask_of_another_model_is_refused():
    config = load_config(overrides=SETTINGS)
    with pytest.raises(LayoutError, match=r"shape \(3,\), the model has \d+ parameters"):
        build(config, np.ones(3, bool))


def test_begin_zeroes_the_initialisation():
    config = load_config(overrides=SETTINGS)
    mask = random_mask(build(config).model)
    training = build(config, mask)
    begin(training, None)
    dense = parameters_to_vector(build(config).model.parameters()).detach().numpy()
    sparse = parameters_to_vector(training.model.parameters()).detach().numpy()
    assert np.array_equal(sparse, np.where(mask, dense, 0))
