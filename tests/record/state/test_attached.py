"""State of schedulers, scalers and random numbers comes back as it was."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from ckptlab.errors import ConfigError, UnsupportedTensorError
from ckptlab.record.state.packing import pack, unpack
from tests.record.loops import Oops, assert_same_run, record, small, update


def schedulers(optimizer):
    return torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=3),
            torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], 0.5),
        ],
        [3],
    )


def draws():
    """A number of each kind of global random numbers, Python's by its second of a pair."""
    return [random.gauss(0, 1), np.random.standard_normal(), float(torch.randn(()))]  # noqa: NPY002


def train(path, stop, *, attach_inside=False, **options):
    """Every number recorded hangs on what is attached."""
    model, optimizer = small()
    schedule = schedulers(optimizer)
    own = np.random.default_rng(1), torch.Generator().manual_seed(2)
    attached = {"scheduler": schedule, "rng": True, "numpy": own[0], "torch": own[1]}
    recorder = record(path, model, optimizer, **options)
    if not attach_inside:
        recorder.attach(**attached)
    with recorder:
        if attach_inside:
            recorder.attach(**attached)
        while recorder.step_number < stop:
            loss = update(model, optimizer, recorder.step_number)
            schedule.step()
            python, numpy, torch_ = draws()
            mine, its = own[0].random(), float(torch.rand((), generator=own[1]))
            recorder.step(loss=loss, python=python, numpy=numpy, torch=torch_, mine=mine, its=its)
        if stop < 10:
            raise Oops


@pytest.mark.parametrize("attach_inside", [False, True])
@pytest.mark.parametrize("stop", [3, 6])
def test_attached_state_comes_back_exactly(tmp_path, stop, attach_inside):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    train(tmp_path / "a", 10)
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])
    with pytest.raises(Oops):
        train(tmp_path / "b", stop)
    draws()  # somebody else's
    train(tmp_path / "b", 10, resume=True, attach_inside=attach_inside)
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_a_state_that_nothing_takes_is_said_once(tmp_path):
    with pytest.raises(Oops):
        train(tmp_path, 4)
    model, optimizer = small()
    with record(tmp_path, model, optimizer, resume=True) as recorder:
        recorder.attach(rng=True)
        update(model, optimizer, recorder.step_number)
        with pytest.warns(UserWarning, match="holds the state of numpy, scheduler, torch, which"):
            recorder.step()
        recorder.step()


class Opaque:
    def __init__(self, state=None) -> None:
        self.state = state

    def state_dict(self):
        return {"callback": self.state}

    def load_state_dict(self, state):
        self.state = state["callback"]


def test_what_has_no_state_or_cannot_be_stored_is_refused(tmp_path):
    model, optimizer = small()
    recorder = record(tmp_path / "run", model, optimizer)
    with pytest.raises(ConfigError, match=r"attach\(step=3\): a int has no state; accepted"):
        recorder.attach(step=3)
    with pytest.raises(
        UnsupportedTensorError,
        match=r"the state 'ema/callback' is of type function.*recorder.attach",
    ):
        recorder.attach(ema=Opaque(draws))


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        Counter({30: 1, 60: 2}),
        {1: "a", (2, 3): None},
        {4, 5},
        np.arange(6, dtype=np.uint16).reshape(2, 3),
        np.float32(0.5),
        [(1, {"x": [None, True]})],
    ],
)
def test_what_json_lacks_comes_back(value):
    tensors = {}
    found = unpack(pack(value, "s", tensors), tensors)
    assert type(found) is type(value) or isinstance(value, np.generic)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
