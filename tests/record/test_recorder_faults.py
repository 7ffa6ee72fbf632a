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
from torch.nn.utils import prune

import ckptlab
from ckptlab.errors import RecordingError, UnsupportedTensorError
from ckptlab.record.restore import restore_beside
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.training import Training
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


def add_parameter(model):
    model[0].register_parameter("late", nn.Parameter(torch.zeros(3)))


def add_module(model):
    model.append(nn.Linear(1, 1))


def give_a_buffer(model):
    model[1].cache = torch.zeros(2)


def prune_weights(model):
    prune.l1_unstructured(model[0], "weight", amount=0.5)


def assign_state(model):
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def widen(model):
    model[0].weight.data = model[0].weight.data.double()


def halve(model):
    model.bfloat16()


CHANGES = [
    (replace_parameter, "parameter '0.weight' was replaced"),
    (replace_module, "module '0' was replaced"),
    (remove_module, "module '0' was removed"),
    (add_parameter, "tensor '0.late' is new"),
    (add_module, "tensor '4.bias' is new"),
    (give_a_buffer, "buffer '1.cache' is new"),
    (prune_weights, "parameter '0.weight' was removed"),
    (assign_state, "parameter '0.weight' was replaced"),
    (widen, r"parameter '0.weight' was \(\(2, 3\), 'float32', 'cpu'\) and became .*float64"),
    (halve, r"buffer '3.running_mean' was .*float32.* and became .*bfloat16"),
]


@pytest.mark.parametrize(("change", "problem"), CHANGES)
@pytest.mark.parametrize("steps", ["0:", "0:100:3"])
@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_a_model_that_changes_costs_none_of_the_steps_before(tmp_path, change, problem, steps):
    """It is noticed at the next recorded step; all before are kept in an interrupted run."""
    model, optimizer = small()
    model[1].register_buffer("cache", None)
    seen = {}

    def train():
        with record(tmp_path, model, optimizer, block=8, steps=steps) as recorder:
            seen.update(run(recorder, model, optimizer, 6))
            change(model)
            for _ in range(3):
                recorder.step()

    with pytest.raises(RecordingError, match=problem):
        train()
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == (list(range(7)) if steps == "0:" else [0, 3, 6])
    assert all(np.array_equal(stored.snapshot(k), seen[k]) for k in stored.steps)
    assert stored.state == "interrupted"
    assert verify(tmp_path, deep=True).ok


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_a_change_that_only_the_last_state_would_show_loses_nothing_either(tmp_path):
    model, _ = small()

    def train():
        with record(tmp_path, model, None, steps="0:3") as recorder:
            for _ in range(5):
                recorder.step()
            replace_module(model)

    with pytest.raises(RecordingError, match="module '0' was replaced"):
        train()
    stored = open_store(tmp_path)
    assert (stored.state, stored.steps.tolist()) == ("interrupted", [0, 1, 2])


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_what_is_excluded_or_not_persistent_may_come_later(tmp_path):
    model, _ = small()
    with record(tmp_path, model, None, exclude=["4.*"]) as recorder:
        recorder.step()
        add_module(model)
        model[1].register_buffer("scratch", torch.zeros(2), persistent=False)
        recorder.step()
    assert open_store(tmp_path).steps.tolist() == [0, 1, 2]


def test_sparse_schedules_commit_after_flush_seconds_too(tmp_path):
    """Steps that are not recorded look at the clock as well."""
    model, optimizer = small()
    with record(tmp_path, model, optimizer, steps="0,1,1000", flush_seconds=0.3) as recorder:
        run(recorder, model, optimizer, 2)
        assert recorder.stats.committed == 0
        time.sleep(0.4)
        run(recorder, model, optimizer, 3)
        began = time.monotonic()
        while open_store(tmp_path).steps.tolist() != [0, 1]:
            assert time.monotonic() - began < 60
            time.sleep(0.02)
        assert not len(open_store(tmp_path).anchors)
    assert open_store(tmp_path).steps.tolist() == [0, 1, 3]
    assert open_store(tmp_path).anchors.tolist() == [3]


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


def test_extra_state_is_said_not_to_be_recorded(tmp_path):
    model = nn.Sequential(Extra(2, 1))
    with (
        pytest.warns(UserWarning, match="the extra state of 0 is not recorded"),
        record(tmp_path, model, None),
    ):
        pass


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
            state["odd"] = object()


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
        wrong = r"'state/0\.weight/odd' is of type object"
        with pytest.raises(UnsupportedTensorError, match=wrong):
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
        assert restore_beside(open_storage(tmp_path), captured, Training({"": beside})) == 6
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
    assert (
        restore_beside(open_storage(tmp_path / "killed"), captured, Training({"": restored})) == 7
    )
    monkeypatch.setattr("ckptlab.store.read.power_loss.boot_id", lambda: "another")
    with pytest.raises(RecordingError, match="resume it once with one process"):
        restore_beside(open_storage(tmp_path / "killed"), captured, Training({"": restored}))
