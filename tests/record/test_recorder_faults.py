"""Models, optimizers and processes that change beneath a recorder."""

import copy
import os
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.errors import RecordingError, UnsupportedTensorError
from ckptlab.record.restore import restore_beside
from ckptlab.record.state.model_tensors import capture
from ckptlab.store.backends.open import open_storage
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import assert_same_run, record, run, same_state, small, update, vector
from tests.record.pipeline.test_writer_thread import synced_steps


class Counting(nn.Module):
    """Assigns new tensors to its buffers, as many modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.linear(x)


def test_buffers_that_are_assigned_anew_are_recorded_and_restored(tmp_path):
    def step(model, optimizer, recorder, seen):
        torch.manual_seed(recorder.step_number)
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        recorder.step()
        seen[recorder.step_number] = copy.deepcopy(model.state_dict())

    seen = {}
    for resume, stop in ((False, 6), (True, 11)):
        torch.manual_seed(0)
        model = Counting()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with record(tmp_path, model, optimizer, resume=resume) as recorder:
            while recorder.step_number < stop:
                step(model, optimizer, recorder, seen)
    run_ = ckptlab.open_run(tmp_path)
    assert run_["calls"].values.tolist() == list(range(12))
    for k, expected in seen.items():
        assert same_state(run_.state_dict(k), expected), k


@pytest.mark.parametrize("new", [torch.zeros(4), torch.zeros(3, dtype=torch.float64), None])
def test_a_buffer_that_becomes_something_else_is_no_recording_of_it(tmp_path, new):
    model = Counting()

    def train():
        with record(tmp_path, model, None) as recorder:
            model.mean = new
            recorder.step()

    with pytest.raises(RecordingError, match=r"buffer 'mean' was \(\(3,\), 'float32'"):
        train()
    assert open_store(tmp_path).steps.tolist() == [0]


def replace_parameter(model):
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def replace_module(model):
    model[0] = nn.Linear(3, 2)


def remove_module(model):
    del model[0]


@pytest.mark.parametrize("change", [replace_parameter, replace_module, remove_module])
@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_a_model_that_is_rebuilt_is_not_recorded_as_the_old_one(tmp_path, change):
    model, _ = small()

    def train():
        with record(tmp_path, model, None) as recorder:
            for _ in range(3):
                recorder.step()
            change(model)
            for _ in range(4):
                recorder.step()

    with pytest.raises(
        RecordingError, match=r"was (replaced by another one|removed), which is not recorded"
    ):
        train()
    # Nothing of the block in which it happened.
    assert open_store(tmp_path).steps.tolist() == [0, 1, 2, 3]
    assert verify(tmp_path, deep=True).ok


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_what_is_moved_before_entering_is_recorded(tmp_path):
    model = Counting()
    recorder = record(tmp_path, model, None)
    model.mean = torch.ones(3)  # as `model.to(device)` does
    model.linear = nn.Linear(3, 1)
    with recorder:
        model.linear.weight.data.fill_(2)
        recorder.step()
    run_ = ckptlab.open_run(tmp_path)
    assert run_["mean"].values.tolist() == [[1, 1, 1]] * 2
    assert run_["linear.weight"].values[1].tolist() == [[2, 2, 2]]


class Odd(torch.optim.SGD):
    """Its state holds what cannot be stored, from the fourth update on."""

    def step(self, closure=None):
        super().step(closure)
        state = self.state[self.param_groups[0]["params"][0]]
        state["calls"] = state.get("calls", 0) + 1
        if state["calls"] > 3:
            state["set"] = {1, 2}


@pytest.mark.parametrize("steps", [3, 5, 20])
def test_an_optimizer_that_cannot_be_stored_costs_no_weights(tmp_path, steps):
    model, _ = small()
    optimizer = Odd(model.parameters(), 0.1)
    seen = {}

    def train():
        with record(tmp_path, model, optimizer) as recorder:
            for step in range(steps):
                update(model, optimizer, step)
                seen[step + 1] = vector(model)
                recorder.step()

    if steps > 3:
        with pytest.raises(UnsupportedTensorError, match=r"'state/0\.weight/set' is a set"):
            train()
    else:
        train()
    stored = open_store(tmp_path)
    assert stored.steps[-1] == min(steps, 7)  # of the block at whose end it was noticed
    assert all(np.array_equal(stored.snapshot(k), seen[k]) for k in range(1, stored.steps[-1] + 1))
    assert stored.anchors.tolist() == [3]
    assert verify(tmp_path, deep=True).ok


def test_a_forked_child_that_leaves_the_block_leaves_the_run_alone(tmp_path):
    model, optimizer = small()
    child = 0
    try:
        with record(tmp_path, model, optimizer) as recorder:
            run(recorder, model, optimizer, 6)
            child = os.fork()
            if not child:
                sys.exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
            before = (tmp_path / "zarr.json").read_bytes()
            assert b'"recording"' in before
            run(recorder, model, optimizer, 9)
    except SystemExit:
        os._exit(3 if not child else 4)
    stored = open_store(tmp_path)
    assert stored.state == "complete"
    assert stored.steps.tolist() == list(range(10))
    assert verify(tmp_path, deep=True).ok


def test_taking_a_run_up_changes_nothing_before_the_first_commit(tmp_path):
    """Other ranks may still be reading the step that all of them go on from."""
    model, optimizer = small()
    with record(tmp_path, model, optimizer, steps="0:100:4") as recorder:
        run(recorder, model, optimizer, 6)  # recorded as the last, off the schedule
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again, restored = small()
    with record(tmp_path, again, restored, steps="0:100:4", resume=True) as recorder:
        assert recorder.step_number == 6
        after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert {p for p in before if before[p] != after[p]} == {tmp_path / "writer.lock"}
        other, beside = small()
        captured = capture(other)
        assert restore_beside(open_storage(tmp_path), captured, beside) == 6
        assert np.array_equal(vector(other), vector(again))
        assert same_state(beside.state_dict(), restored.state_dict())
        run(recorder, again, restored, 21)
    expected, alone = small()
    with record(tmp_path / "b", expected, alone, steps="0:100:4") as recorder:
        run(recorder, expected, alone, 21)
    assert_same_run(tmp_path, tmp_path / "b")


def test_ranks_do_not_guess_what_another_host_counts(tmp_path, monkeypatch):
    """A process that shares syncs is killed, and ranks on several machines take its run up."""
    model, optimizer = small()
    with record(tmp_path / "run", model, optimizer, sync_seconds=1000, fsync=True) as recorder:
        run(recorder, model, optimizer, 9)
        began = time.monotonic()
        while synced_steps(tmp_path / "run") < 8:
            assert time.monotonic() - began < 60
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
    again, restored = small()
    captured = capture(again)
    assert restore_beside(open_storage(tmp_path / "killed"), captured, restored) == 7
    monkeypatch.setattr("ckptlab.store.read.power_loss.boot_id", lambda: "another")
    with pytest.raises(RecordingError, match="take it up once with one process"):
        restore_beside(open_storage(tmp_path / "killed"), captured, restored)
