"""What is asked of CUDA to capture graphs, in which order."""

import pytest
import torch

from ckptlab.record.pipeline import graphs
from tests.record.fake_cuda import FakeCuda


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def test_a_graph_has_scratch_memory_of_its_own_and_the_stream_of_its_training(cuda):
    """Else graphs of trainings at once share one workspace of cuBLAS, and write into it at once."""
    make = graphs.CudaGraphs()
    with torch.cuda.stream(torch.cuda.Stream()):
        replay = make(lambda: cuda.calls.append(("work",)) or "result")
    expected = ["clear", "begin", "work", "end", "clear"]
    assert [call[0] for call in cuda.calls] == expected
    assert cuda.calls[1] == ("begin", "pool", 1, "thread_local")
    assert replay() == replay() == "result"
    assert [call[0] for call in cuda.calls] == [*expected, "replay", "replay"]


def test_what_fails_while_it_is_captured_leaves_no_scratch_memory(cuda):
    with torch.cuda.stream(torch.cuda.Stream()), pytest.raises(ZeroDivisionError):
        graphs.CudaGraphs()(lambda: 1 / 0)
    assert cuda.calls[-1] == ("clear",)


def test_on_the_default_stream_all_graphs_are_captured_on_one_other(cuda):
    make = graphs.CudaGraphs()
    for _ in range(2):
        make(lambda: None)
    assert {call[2] for call in cuda.calls if call[0] == "begin"} == {1}
