"""Share CUDA streams within the process, and copy to the host beside the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_streams: dict[tuple[str, torch.device], torch.cuda.Stream] = {}


def shared_stream(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """Return the process's stream for a purpose.

    torch has 32 streams a device and then hands out the first again: with streams of their own for
    every purpose, trainings at once would soon share those they compute on.
    """
    key = purpose, device
    if key not in _streams:
        _streams[key] = torch.cuda.Stream(device)
    return _streams[key]


def copies_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream on which recordings leave a device; None on the CPU."""
    return shared_stream("copies", device) if device.type == "cuda" else None


def mark(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Return an event at the end of what a stream has to do; who waits for it sleeps.

    An event that is not recorded yet counts as reached, so that no other thread may see it before.
    """
    event = torch.cuda.Event(blocking=True)
    event.record(stream)
    return event


def pinned_like(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return room for a copy on the host; None if the tensor lies there."""
    if tensor.device.type == "cpu":
        return None
    return torch.empty_like(tensor, device="cpu", pin_memory=True)


class HostCopies:
    """Copies of tensors on the host; on a GPU into pinned memory, without waiting for the device.

    The tensors are kept until they are copied.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self._tensors = dict(tensors)
        self._ready: torch.cuda.Event | None = None
        self._host: dict[str, torch.Tensor] = {}
        side = copies_stream(device)
        if side is None:
            return
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for name, tensor in self._tensors.items():
                if (host := pinned_like(tensor)) is not None:
                    self._host[name] = host.copy_(tensor, non_blocking=True)
        self._ready = mark(side)

    def wait(self) -> dict[str, torch.Tensor]:
        """Return the copies once they are whole."""
        if self._ready is not None:
            self._ready.synchronize()
            self._ready = None
            self._tensors |= self._host
        return self._tensors
