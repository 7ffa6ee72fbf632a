"""Capture CUDA graphs that may run beside others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from ckptlab.record.streams import shared_stream

Found = TypeVar("Found")


class CudaGraphs:
    """Makes CUDA graphs that share their memory, since one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Found]) -> Callable[[], Found]:
        """Record some work without doing it; returns a function that does it.

        The work waits for nothing, and finds and leaves everything in the same tensors.
        """
        device = torch.device("cuda", torch.cuda.current_device())
        own = torch.cuda.current_stream(device)
        if own == torch.cuda.default_stream(device):  # on which nothing can be captured
            own = shared_stream("capture", device)
        graph = torch.cuda.CUDAGraph()
        with _own_workspace():
            # Other threads go on copying recorded blocks meanwhile.
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=self._pool, stream=own, capture_error_mode=mode):
                result = work()

        def replay() -> Found:
            graph.replay()
            return result

        return replay


@contextlib.contextmanager
def _own_workspace() -> Iterator[None]:
    """Give a graph its own scratch memory of cuBLAS.

    torch keeps one for each stream, and a graph holds on to the one it was captured with: graphs
    that run at once would write into the same.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextlib.contextmanager
def warming_up(device: torch.device) -> Iterator[None]:
    """Work on a side stream, as the making of a graph asks for, where there are streams."""
    if device.type != "cuda":
        yield
        return
    side, own = shared_stream("warm-up", device), torch.cuda.current_stream(device)
    side.wait_stream(own)
    with torch.cuda.stream(side):
        yield
    own.wait_stream(side)
