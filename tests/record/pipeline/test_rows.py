"""Rows copied by a captured graph, with a stand-in for it, are those copied tensor by tensor."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ckptlab.record.pipeline.buffers import BlockBuffer
from ckptlab.record.pipeline.rows import GraphedRows
from ckptlab.store.read.reader import open_store
from tests.record.loops import Everything, record

ARRAYS = ("weights", "gradients")


class Launches(TorchDispatchMode):
    """Counts what is computed outside `within`."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.inside = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (self.inside or function.is_view)
        return function(*args, **(kwargs or {}))


class Training:
    """Updates in place, as a CUDA graph makes them: everything stays where it is."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = Everything()
        self.loss, self.accuracy = torch.zeros(()), torch.zeros(())
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, number):
        generator = torch.Generator().manual_seed(number)
        for parameter in self.model.parameters():
            parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
            parameter.sub_(0.1 * parameter.grad)
        for buffer in self.model.buffers():
            buffer.copy_(torch.full_like(buffer, number % 2))
        self.loss.fill_(number / 7)
        self.accuracy.fill_(number / 70)


def recorded(path, make=None, steps=20, launches=None, kind=Training):
    training = kind()
    counts = []
    with record(path, training.model, None, block=4, arrays=ARRAYS) as recorder:
        steps_of = recorder._session.steps
        if make is not None:
            captured = steps_of._captured
            staging = BlockBuffer(captured, 1, gradients=True)
            steps_of._rows = GraphedRows(captured, steps_of._gradients, staging, make)
        for number in range(1, steps + 1):
            training.step(number)
            before = 0 if launches is None else launches.count
            recorder.step(loss=training.loss, accuracy=training.accuracy, lr=0.5 / number)
            counts.append(0 if launches is None else launches.count - before)
    return counts


@pytest.fixture
def made():
    return []


def test_rows_of_graphs_are_those_of_the_plain_copy(tmp_path, made):
    def again(work):
        made.append(work)
        return work

    recorded(tmp_path / "plain.zarr")
    recorded(tmp_path / "graphs.zarr", again)
    plain, graphs = (open_store(tmp_path / f"{name}.zarr") for name in ("plain", "graphs"))
    assert len(made) == 2  # one for each buffer
    names = ("step", "digest", "loss", "batch_accuracy", "lr", "gradient_norm", "gradient_mean_abs")
    for name in names:
        assert np.array_equal(plain.small(name), graphs.small(name), equal_nan=True), name
    for array in ("weights", "gradients", "buffers", "buffers_int64"):
        for block in range(5):
            one, other = (run.array(array).read_block(block) for run in (plain, graphs))
            assert np.array_equal(one, other, equal_nan=True), array


def test_a_recorded_step_is_one_launch(tmp_path):
    launches = Launches()

    def replayed(work):
        def replay():
            launches.count += 1
            launches.inside = True
            try:
                return work()
            finally:
                launches.inside = False

        return replay

    with launches:
        counts = recorded(tmp_path / "a.zarr", replayed, steps=24, launches=launches)
    assert counts[0] > 1  # what was met too seldom is copied tensor by tensor
    assert counts[-8:] == [1] * 8  # two blocks of 4


def test_tensors_that_move_are_copied_as_they_are(tmp_path, made):
    class Moving(Training):
        def step(self, number):
            super().step(number)
            for parameter in self.model.parameters():
                parameter.grad = parameter.grad.clone()
            self.loss = self.loss.clone()

    recorded(tmp_path / "moving.zarr", lambda work: made.append(work) or work, kind=Moving)
    recorded(tmp_path / "plain.zarr")
    plain, moving = (open_store(tmp_path / f"{name}.zarr") for name in ("plain", "moving"))
    assert np.array_equal(plain.small("digest"), moving.small("digest"))
    assert np.array_equal(plain.small("loss"), moving.small("loss"), equal_nan=True)
