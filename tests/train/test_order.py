import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.train.counter_rng import Draw, derived_seed, integers
from ckptlab.train.order import Order

sizes = {"samples": st.integers(1, 60), "batch_size": st.integers(1, 70)}


@given(**sizes, seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_an_epoch_shows_every_sample_once(samples, batch_size, seed, epoch):
    order = Order(samples=samples, batch_size=batch_size, seed=seed)
    first = epoch * order.steps_per_epoch
    batches = [order.batch_at(first + k) for k in range(order.steps_per_epoch)]
    assert sorted(torch.cat(batches).tolist()) == list(range(samples))
    assert all(len(batch) == min(batch_size, samples) for batch in batches[:-1])


@given(**sizes, steps=st.lists(st.integers(0, 300), max_size=20))
def test_a_step_does_not_depend_on_what_was_asked_before(samples, batch_size, steps):
    used = Order(samples=samples, batch_size=batch_size, seed=3)
    for step in steps:
        fresh = Order(samples=samples, batch_size=batch_size, seed=3)
        assert torch.equal(used.batch_at(step), fresh.batch_at(step))


def test_epochs_of_cifar_have_391_steps():
    order = Order(samples=50_000, batch_size=128, seed=0)
    assert order.steps_per_epoch == 391
    assert len(order.batch_at(390)) == 80
    assert len(order.batch_at(391)) == 128


def test_seeds_and_epochs_give_other_orders():
    a, b = (Order(samples=100, batch_size=100, seed=seed) for seed in (0, 1))
    assert not torch.equal(a.batch_at(0), b.batch_at(0))
    assert not torch.equal(a.batch_at(0), a.batch_at(1))


@pytest.mark.parametrize("samples", [100, 96])
def test_an_epoch_at_once_has_the_draws_of_each_step_and_sample(samples):
    draws = (Draw(7, "flip", 2), Draw(7, "crop row", 9))
    order = Order(samples=samples, batch_size=32, seed=3)
    for step in [0, 1, 3, 4, 9, 2]:
        found = order.drawn_at(step, draws)
        index = order.batch_at(step)
        alone = [integers(derived_seed(7, draw.stream, step), index, draw.high) for draw in draws]
        assert torch.equal(found, torch.stack([index, *alone]))
