"""What is asked of CUDA to bring recordings to the host, in which order."""

import pytest
import torch

from ckptlab.record import streams
from ckptlab.record.pipeline.buffers import BlockBuffer
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.optimizer import copy_state
from tests.record.fake_cuda import DEVICE, Event, FakeCuda
from tests.record.loops import small


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def test_a_process_has_one_stream_for_each_purpose(cuda):
    """torch has 32 in all: with three for each of 16 trainings, they would share them."""
    found = [streams.shared_stream(p, DEVICE) for p in ("copies", "capture") for _ in range(16)]
    assert {stream.number for stream in found} == {1, 2}


def test_an_event_is_recorded_before_the_writer_can_see_it(cuda, monkeypatch):
    """While earlier rows wait to be written, more of the same buffer are sent."""
    model, _ = small()
    buffer = BlockBuffer(capture(model), 4, gradients=False)
    side = streams.copies_stream(DEVICE)
    seen = []
    record = Event.record

    def watched(event, stream):
        seen.append(buffer._ready)  # what the writer's thread would find just before
        record(event, stream)

    monkeypatch.setattr(Event, "record", watched)
    for count in (2, 4):
        buffer.send(count, side)
        assert buffer._ready is cuda.events[-1]
        assert buffer._ready.recorded == side.number
    assert seen == [None, cuda.events[0]]
    # Whoever waits for a copy sleeps, and takes no core from those that compress.
    assert all(event.blocking for event in cuda.events)
    # The copies come after what the training has done, and the training after the copies.
    assert cuda.calls[0] == ("wait_stream", side.number, 0)
    buffer.host("loss", 4)
    assert cuda.calls[-1] == ("synchronize", side.number)
    buffer.reuse()
    assert cuda.calls[-1] == ("wait_event", 0, side.number)


def test_an_optimizers_state_leaves_on_the_side_stream_and_is_waited_for(cuda, monkeypatch):
    """Not from pageable memory on the stream that trains, where a copy waits for the device."""
    model, optimizer = small()
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    captured = capture(model)
    expected = copy_state(optimizer, captured, 1).to_anchor()

    def pinned(tensor):
        cuda.calls.append(("copy", cuda.current.number))
        return torch.empty_like(tensor)

    monkeypatch.setattr(streams, "pinned_like", pinned)
    copies = streams.HostCopies(copy_state(optimizer, captured, 1).vectors, DEVICE)
    assert cuda.calls == [("wait_stream", 1, 0), ("copy", 1), ("record", 1)]
    found = copies.wait()
    assert cuda.calls[-1] == ("synchronize", 1)
    assert expected.states.keys() == found.keys() == {"momentum_buffer"}
    for key, values in expected.states.items():
        assert values.tolist() == found[key].tolist()
