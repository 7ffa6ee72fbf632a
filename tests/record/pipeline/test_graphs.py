"""What is asked of CUDA, in which order; without a device, of a stand-in that writes it down."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from ckptlab.record.pipeline import graphs

DEVICE = torch.device("cuda", 0)


class Cuda:
    """Calls in order; streams are numbers, the default one is 0."""

    def __init__(self, monkeypatch) -> None:
        self.calls: list[tuple] = []
        self.current = 0
        self._streams = 0
        for name in (
            "current_device",
            "graph_pool_handle",
            "CUDAGraph",
            "graph",
            "stream",
            "Stream",
        ):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda device=None: 0)
        clear = "_cuda_clearCublasWorkspaces"
        monkeypatch.setattr(torch._C, clear, lambda: self.calls.append(("clear",)), raising=False)
        monkeypatch.setattr(graphs, "_streams", {})

    def current_device(self):
        return 0

    def graph_pool_handle(self):
        return "pool"

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.calls.append(("replay",)))

    def Stream(self, device):
        self._streams += 1
        return 100 + self._streams

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        self.calls.append(("begin", pool, stream, capture_error_mode))
        yield
        self.calls.append(("end",))


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


def test_a_graph_has_scratch_memory_of_its_own_and_the_stream_of_its_training(cuda):
    """Else graphs of trainings at once share one workspace of cuBLAS, and write into it at once."""
    make = graphs.CudaGraphs()
    with torch.cuda.stream(7):
        replay = make(lambda: cuda.calls.append(("work",)) or "result")
    expected = ["clear", "begin", "work", "end", "clear"]
    assert [call[0] for call in cuda.calls] == expected
    assert cuda.calls[1] == ("begin", "pool", 7, "thread_local")
    assert replay() == replay() == "result"
    assert [call[0] for call in cuda.calls] == [*expected, "replay", "replay"]


def test_what_fails_while_it_is_captured_leaves_no_scratch_memory(cuda):
    with torch.cuda.stream(7), pytest.raises(ZeroDivisionError):
        graphs.CudaGraphs()(lambda: 1 / 0)
    assert cuda.calls[-1] == ("clear",)


def test_on_the_default_stream_all_graphs_are_captured_on_one_other(cuda):
    make = graphs.CudaGraphs()
    for _ in range(2):
        make(lambda: None)
    assert {call[2] for call in cuda.calls if call[0] == "begin"} == {101}


def test_a_process_has_one_stream_for_each_purpose(cuda):
    """torch has 32 in all: with three for each of 16 trainings, they would share them."""
    found = [graphs.shared_stream(p, DEVICE) for p in ("copies", "capture") for _ in range(16)]
    assert set(found) == {101, 102}
