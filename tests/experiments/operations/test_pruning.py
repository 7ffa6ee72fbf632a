import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn.utils import parameters_to_vector, prune

from ckptlab.errors import ConfigError, LayoutError, UnknownNameError
from ckptlab.experiments.operations.pruning import (
    EmptyTensorWarning,
    density,
    fit,
    full_mask,
    prunable,
    prune_magnitude,
    prune_random,
    survivors_after,
)
from ckptlab.record.state.model_tensors import capture
from ckptlab.store.format.layout import Layout, Tensor
from tests.trained import seeded


def network(outputs: int = 10) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, bias=False),
            nn.Flatten(),
            nn.Linear(128, outputs),
        )
    )


def layout_with(*sizes: int) -> Layout:
    """Prunable tensors of these sizes, and a bias behind each."""
    tensors, offset = [], 0
    for i, size in enumerate(sizes):
        for name, count, kind in ((f"{i}.weight", size, "linear"), (f"{i}.bias", 2, "bias")):
            tensors.append(
                Tensor(
                    name=name, shape=(count,), offset=offset, kind=kind, prunable=kind == "linear"
                )
            )
            offset += count
    return Layout(tuple(tensors))


def pruned_by_torch(model: nn.Module, method, amount) -> np.ndarray:
    """Prune convolutions and linear layers, and collect the mask in the order of the vector."""
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured([(m, "weight") for m in modules], method, amount=amount)
    masks = {id(m.weight_orig): m.weight_mask for m in modules}
    parts = [
        masks.get(id(p), torch.ones_like(p)).reshape(-1)
        for module in model.children()
        for p in _in_order(module)
    ]
    return torch.cat(parts).bool().numpy()


def _in_order(module: nn.Module):
    # torch moves `weight` behind `bias` when it becomes `weight_orig`.
    names = ["weight_orig", "weight", "bias"]
    found = dict(module.named_parameters())
    return [found[name] for name in names if name in found]


@pytest.mark.filterwarnings("ignore::ckptlab.experiments.operations.pruning.EmptyTensorWarning")
def test_ten_levels_equal_those_of_torch():
    ours, theirs = network(), network()
    layout = capture(ours).layout
    weights = parameters_to_vector(ours.parameters()).detach().numpy()
    assert len(np.unique(np.abs(weights[prunable(layout)]))) == prunable(layout).sum()
    mask = full_mask(layout)
    for _ in range(10):
        count = round(0.2 * int(mask[prunable(layout)].sum()))
        mask = prune_magnitude(weights, mask, layout, 0.2)
        # An absolute amount, since torch counts a fraction of what it has not pruned itself.
        expected = pruned_by_torch(theirs, prune.L1Unstructured, count)
        assert np.array_equal(mask, expected)


def test_random_pruning_removes_as_many_as_torch():
    model, layout = network(), capture(network()).layout
    mask = full_mask(layout)
    for level in range(10):
        before = int(mask[prunable(layout)].sum())
        mask = prune_random(mask, layout, np.random.default_rng(level), 0.2)
        expected = pruned_by_torch(model, prune.RandomUnstructured, 0.2)
        assert mask.sum() == expected.sum()
        assert before - mask[prunable(layout)].sum() == round(0.2 * before)
    assert mask[~prunable(layout)].all()


@settings(deadline=None)
@given(
    weights=arrays(np.float32, st.integers(6, 300), elements=st.floats(-2, 2, width=16)),
    fraction=st.floats(0.01, 0.99),
    scope=st.sampled_from(["global", "layer"]),
    data=st.data(),
)
@pytest.mark.filterwarnings("ignore::ckptlab.experiments.operations.pruning.EmptyTensorWarning")
def test_a_level_removes_exactly_its_share_of_the_smallest(weights, fraction, scope, data):
    half = (len(weights) - 4) // 2
    layout = layout_with(half, len(weights) - 4 - half)
    before = data.draw(arrays(bool, len(weights))) | ~prunable(layout)
    after = prune_magnitude(weights, before, layout, fraction, scope=scope)
    assert not (after & ~before).any()
    assert after[~prunable(layout)].all()
    tensors = layout.tensor_index()
    groups = [prunable(layout)] if scope == "global" else [tensors == 0, tensors == 2]
    for group in groups:
        alive, left = before & group, after & group
        assert alive.sum() - left.sum() == round(fraction * int(alive.sum()))
        gone = np.abs(weights[alive & ~left])
        if len(gone) and left.any():
            assert gone.max() <= np.abs(weights[left]).min()
            # Ties: lower positions go first.
            edge = np.flatnonzero(alive & (np.abs(weights) == gone.max()))
            kept = after[edge]
            assert not (kept[:-1] & ~kept[1:]).any()


@given(count=st.integers(0, 10**6), fraction=st.floats(0.01, 0.9), levels=st.integers(0, 12))
def test_levels_at_once_count_as_one_after_the_other(count, fraction, levels):
    left = count
    for _ in range(levels):
        left = left - round(fraction * left)
    assert survivors_after(count, fraction, levels) == left


def test_one_shot_keeps_as_many_as_levels():
    layout = layout_with(1000, 333)
    weights = np.random.default_rng(0).normal(size=layout.parameters)
    step_by_step = full_mask(layout)
    for _ in range(5):
        step_by_step = prune_magnitude(weights, step_by_step, layout, 0.2)
    assert np.array_equal(
        prune_magnitude(weights, full_mask(layout), layout, 0.2, levels=5), step_by_step
    )
    assert density(step_by_step, layout) == pytest.approx(0.8**5, abs=1e-3)


def test_a_density_is_that_of_all_prunable_weights():
    layout = layout_with(100, 40)
    weights = np.random.default_rng(0).normal(size=layout.parameters)
    half = prune_magnitude(weights, full_mask(layout), layout, 0.5)
    quarter = prune_magnitude(weights, half, layout, density=0.25)
    assert quarter[prunable(layout)].sum() == 35
    assert not (quarter & ~half).any()
    by_layer = prune_random(half, layout, np.random.default_rng(0), density=0.1, scope="layer")
    sums = [by_layer[layout.tensor_index() == i].sum() for i in (0, 2)]
    assert sums == [10, 4]
    # What is sparser already stays as it is.
    assert np.array_equal(prune_magnitude(weights, quarter, layout, density=0.6), quarter)
    for both in ({}, {"fraction": 0.2, "density": 0.2}):
        with pytest.raises(ConfigError, match="either fraction or density"):
            prune_magnitude(weights, half, layout, **both)


def test_an_emptied_tensor_is_said_and_pruning_goes_on():
    layout = layout_with(10, 5)
    weights = np.arange(1.0, 20.0)
    weights[12:17] = 1e-3
    with pytest.warns(EmptyTensorWarning, match=r"no weight of '1\.weight'"):
        mask = prune_magnitude(weights, full_mask(layout), layout, 0.5)
    assert mask[prunable(layout)].sum() == 15 - round(7.5)


def test_frozen_tensors_are_not_pruned():
    model = network()
    model[0].weight.requires_grad_(False)
    layout = capture(model).layout
    weights = parameters_to_vector(model.parameters()).detach().numpy()
    mask = prune_magnitude(weights, full_mask(layout), layout, 0.9)
    assert mask[: layout.tensors[0].size].all()


def test_a_mask_is_carried_to_another_output_layer():
    ten, four = capture(network(10)).layout, capture(network(4)).layout
    mask = prune_random(full_mask(ten), ten, np.random.default_rng(0), 0.5)
    carried = fit(mask, ten, four)
    head = four["4.weight"].offset
    assert np.array_equal(carried[:head], mask[:head])
    assert carried[head:].all()
    assert np.array_equal(fit(mask, ten, ten), mask)
    with pytest.raises(LayoutError, match="does not have"):
        fit(mask, ten, capture(seeded(lambda: nn.Linear(3, 2))).layout)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_outside_0_to_1_are_refused(fraction):
    layout = layout_with(4)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        prune_magnitude(np.ones(6), full_mask(layout), layout, fraction)


def test_what_does_not_fit_is_refused():
    layout = layout_with(4)
    with pytest.raises(LayoutError, match="6 parameters"):
        prune_magnitude(np.ones(5), full_mask(layout), layout, 0.2)
    with pytest.raises(UnknownNameError, match="global, layer"):
        prune_magnitude(np.ones(6), full_mask(layout), layout, 0.2, scope="tensor")
    with pytest.raises(ConfigError, match="diverged"):
        prune_magnitude(np.full(6, np.nan), full_mask(layout), layout, 0.2)
