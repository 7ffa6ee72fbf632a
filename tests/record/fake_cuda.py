"""Stand in for CUDA where there is no device: what is asked of it is written down, in order."""

import contextlib
from types import SimpleNamespace

import torch

from ckptlab.record import streams

DEVICE = torch.device("cuda", 0)


class Stream:
    def __init__(self, calls, number):
        self.calls = calls
        self.number = number

    def wait_stream(self, other):
        self.calls.append(("wait_stream", self.number, other.number))

    def wait_event(self, event):
        self.calls.append(("wait_event", self.number, event.recorded))


class Event:
    """As CUDA has it, one that was never recorded counts as reached."""

    def __init__(self, calls, blocking):
        self.calls = calls
        self.blocking = blocking
        self.recorded = None

    def record(self, stream):
        self.recorded = stream.number
        self.calls.append(("record", stream.number))

    def synchronize(self):
        self.calls.append(("synchronize", self.recorded))


class FakeCuda:
    """Calls in order; streams are numbered, the default one is 0."""

    def __init__(self, monkeypatch) -> None:
        self.calls: list[tuple] = []
        self.events: list[Event] = []
        self.default = self.current = Stream(self.calls, 0)
        self.made = 0
        patches = {
            "current_device": lambda: 0,
            "graph_pool_handle": lambda: "pool",
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.calls.append(("replay",))),
            "current_stream": lambda device=None: self.current,
            "default_stream": lambda device=None: self.default,
            "graph": self.graph,
            "stream": self.stream,
            "Stream": self.new_stream,
            "Event": self.event,
        }
        for name, value in patches.items():
            monkeypatch.setattr(torch.cuda, name, value)
        clear = "_cuda_clearCublasWorkspaces"
        monkeypatch.setattr(torch._C, clear, lambda: self.calls.append(("clear",)), raising=False)
        monkeypatch.setattr(streams, "_streams", {})

    def new_stream(self, device=None):
        self.made += 1
        return Stream(self.calls, self.made)

    def event(self, *, blocking):
        self.events.append(Event(self.calls, blocking))
        return self.events[-1]

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        self.calls.append(("begin", pool, stream.number, capture_error_mode))
        yield
        self.calls.append(("end",))
