"""One network with several optimizers, such as a GAN: states, rates and skips of each."""

import numpy as np
import pytest
import torch
from torch import nn

from ckptlab.errors import LayoutError
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import Oops, assert_same_run, record, same_state


def gan():
    torch.manual_seed(0)
    nets = nn.ModuleDict({"generator": nn.Linear(2, 3), "critic": nn.Linear(3, 1)})
    return nets, {
        "generator": torch.optim.Adam(nets["generator"].parameters(), lr=0.1),
        "critic": torch.optim.Adam(nets["critic"].parameters(), lr=0.2),
    }


def play(nets, optimizers, step):
    """Critic every time, generator every second time; return the gradients that each used."""
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(step))
    fake = nets["generator"](noise)
    optimizers["critic"].zero_grad()
    nets["critic"](fake.detach()).square().mean().backward()
    used = [None, None, *(p.grad.clone() for p in nets["critic"].parameters())]
    optimizers["critic"].step()
    if step % 2 == 0:
        optimizers["generator"].zero_grad()
        (-nets["critic"](fake).mean()).backward()  # leaves something in the critic's gradients
        used[:2] = [p.grad.clone() for p in nets["generator"].parameters()]
        optimizers["generator"].step()
    return used


def train(path, stop, **options):
    nets, optimizers = gan()
    used = {}
    with record(path, nets, optimizers, arrays=["weights", "gradients"], **options) as recorder:
        while recorder.step_number < stop:
            used[recorder.step_number + 1] = play(nets, optimizers, recorder.step_number)
            recorder.step()
        if stop < 10:
            raise Oops
    return nets, optimizers, used


def test_a_step_counts_once_and_each_optimizer_has_its_own(tmp_path):
    nets, optimizers, used = train(tmp_path, 10)
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == list(range(11))
    assert stored.small("lr")[1:].tolist() == [0.1] * 10
    assert stored.small("lr_generator")[1:].tolist() == [0.1] * 10
    assert stored.small("lr_critic")[1:].tolist() == [0.2] * 10
    assert stored.small("skipped_critic")[1:].tolist() == [0] * 10
    assert stored.small("skipped_generator")[1:].tolist() == [0, 1] * 5
    assert not stored.small("skipped").any()
    for step, gradients in used.items():
        parts = [
            torch.full((tensor.size,), torch.nan) if g is None else g.reshape(-1)
            for tensor, g in zip(stored.layout.tensors, gradients, strict=True)
        ]
        expected = torch.cat(parts).numpy()
        assert np.array_equal(stored.snapshot(step, "gradients"), expected, equal_nan=True), step
        norms = [np.nan if g is None else float(g.norm()) for g in gradients]
        assert stored.small("gradient_norm")[:, step] == pytest.approx(norms, nan_ok=True)
    # Disjoint states share an array.
    found = stored.anchor(10).states["exp_avg"]
    expected = [
        optimizers[name].state[p]["exp_avg"].reshape(-1)
        for name in optimizers
        for p in nets[name].parameters()
    ]
    assert np.array_equal(found, torch.cat(expected).numpy())
    assert verify(tmp_path, deep=True).ok


@pytest.mark.parametrize("stop", [3, 8])
def test_resuming_several_optimizers_is_exact(tmp_path, stop):
    train(tmp_path / "a", 10)
    with pytest.raises(Oops):
        train(tmp_path / "b", stop)
    train(tmp_path / "b", 10, resume=True)
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_two_optimizers_of_one_parameter_keep_both_states(tmp_path):
    def make():
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        return model, [torch.optim.Adam(model.parameters(), lr=lr) for lr in (0.1, 0.01)]

    def step(model, optimizers, number):
        for optimizer in optimizers:
            optimizer.zero_grad()
            model(torch.full((1, 2), number + 1.0)).sum().backward()
            optimizer.step()

    model, optimizers = make()
    with record(tmp_path, model, optimizers) as recorder:
        for number in range(3):
            step(model, optimizers, number)
            recorder.step()
    again, restored = make()
    with record(tmp_path, again, restored, resume=True):
        pass
    for one, other in zip(optimizers, restored, strict=True):
        assert same_state(one.state_dict(), other.state_dict())
    assert open_store(tmp_path).small("lr_1")[1:].tolist() == [0.01] * 3


def test_resuming_needs_the_same_names(tmp_path):
    with pytest.raises(Oops):
        train(tmp_path, 4)
    nets, optimizers = gan()
    wrong = {"generator": optimizers["generator"], "disc": optimizers["critic"]}
    for given, named in ((wrong, "generator, disc"), (optimizers["critic"], "one alone")):
        with (
            pytest.raises(LayoutError, match=f"optimizers generator, critic; given: {named}"),
            record(tmp_path, nets, given, resume=True),
        ):
            pass
