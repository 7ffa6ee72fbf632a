"""Recorded gradients are what the optimizer was given, whatever it makes of them."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from ckptlab.record.pipeline.gradients import writes_into_gradients
from ckptlab.record.recorder import Recorder
from ckptlab.store.read.reader import open_store

STEPS = 5

OPTIMIZERS = [
    *((torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": n}) for n in (True, False)),
    *((torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": w}) for w in (0.0, 0.1)),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"maximize": True, "weight_decay": 0.1}),
    *((kind, {}) for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam)),
    *((kind, {}) for kind in (torch.optim.RAdam, torch.optim.Adamax, torch.optim.Adagrad)),
    *((kind, {}) for kind in (torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Rprop)),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def gradient_of(model: nn.Module, step: int) -> np.ndarray:
    """The gradient by a copy of the model, which no optimizer touches."""
    twin = copy.deepcopy(model)
    gradients = torch.autograd.grad(loss_of(twin, step), list(twin.parameters()))
    return torch.cat([g.reshape(-1) for g in gradients]).numpy()


def train(path, make, steps: str = "0:", *, closure: bool = False) -> dict[int, np.ndarray]:
    model = network()
    optimizer = make(model.parameters())
    expected = {}
    with Recorder(path, model, optimizer, steps=steps, arrays=["weights", "gradients"]) as recorder:
        for step in range(STEPS):
            expected[step + 1] = gradient_of(model, step)

            def evaluate(step=step):
                optimizer.zero_grad()
                loss = loss_of(model, step)
                loss.backward()
                return loss

            if closure:
                loss = optimizer.step(evaluate)
            else:
                loss = evaluate()
                optimizer.step()
            recorder.step(loss=loss)
    return expected


def assert_recorded(path, expected: dict[int, np.ndarray]) -> None:
    stored = open_store(path)
    for column, step in enumerate(stored.steps.tolist()):
        if step == 0:
            continue
        np.testing.assert_array_equal(stored.snapshot(step, "gradients"), expected[step])
        for index, tensor in enumerate(stored.layout.tensors):
            part = expected[step][tensor.offset : tensor.offset + tensor.size]
            norm = stored.small("gradient_norm")[index, column]
            assert norm == pytest.approx(np.linalg.norm(part.astype(float)), rel=1e-6)


@pytest.mark.parametrize("foreach", [True, False, None])
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_gradients_are_those_before_the_update(tmp_path, kind, options, foreach):
    if "foreach" in inspect.signature(kind).parameters:
        options = {**options, "foreach": foreach}
    expected = train(tmp_path, lambda parameters: kind(parameters, **options))
    assert_recorded(tmp_path, expected)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SGD])
def test_with_a_closure_they_are_those_of_its_first_evaluation(tmp_path, kind):
    expected = train(tmp_path, lambda parameters: kind(parameters, lr=0.1), closure=True)
    assert_recorded(tmp_path, expected)


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_which_optimizers_write_into_gradients_is_known(kind, options):
    model = network()
    options = {**options, "foreach": True}
    optimizer = kind(model.parameters(), **options)
    changed = False
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        after = [p.grad for p in model.parameters()]
        changed |= not all(map(torch.equal, before, after))
    assert not changed or writes_into_gradients(optimizer)


def test_the_last_state_has_no_gradient_that_the_optimizer_has_overwritten(tmp_path):
    nesterov = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    expected = train(tmp_path / "a", lambda p: torch.optim.SGD(p, **nesterov), steps="0:3")
    stored = open_store(tmp_path / "a")
    assert stored.steps.tolist() == [0, 1, 2, STEPS]
    assert np.isnan(stored.snapshot(STEPS, "gradients")).all()
    assert np.isnan(stored.small("gradient_norm")[:, -1]).all()
    expected = train(tmp_path / "b", lambda p: torch.optim.SGD(p, lr=0.1), steps="0:3")
    assert_recorded(tmp_path / "b", expected)
