"""Hold one block of steps on the model's device: two such buffers make a double buffer.

While one is compressed the other is filled; there is no third, so memory is bounded, and training
waits rather than queueing more. On CUDA the buffers lie on the device and are copied to pinned
memory on a side stream, a block at a time; the training stream never waits for the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.streams import mark
from ckptlab.store.format.layout import Layout

MAX_BLOCK, USUAL_BLOCK, MIN_BLOCK = 1024, 32, 4
MANY_BLOCKS, OPEN_ENDED_STEPS = 256, 2**16
QUICK, SLOW = 2**24, 2**32
"""Bytes of a block that one core decodes in some 10 ms, and in some 2 s."""

HOST_SERIES: dict[str, type] = {
    "step": np.int64,
    "wall_time": np.float64,
    "stall_time": np.float64,
    "skipped": np.bool_,
}
"""Small arrays whose values are known on the host, with their types."""

SCALARS = ("loss", "batch_accuracy", "lr")
"""Small arrays whose values may lie on the device."""

BY_TENSOR = ("gradient_norm", "gradient_mean_abs")
"""Small arrays with a value for each tensor."""


def bytes_per_step(layout: Layout, *, gradients: bool) -> int:
    """Return how many bytes of large arrays one step takes."""
    total = 4 * layout.parameters * (2 if gradients else 1)
    for array, size in layout.buffer_sizes.items():
        dtype = array.removeprefix("buffers").removeprefix("_") or "float32"
        total += size * np.dtype(dtype).itemsize
    return total


def block_size(
    step_bytes: int, memory: int, steps: int | None = None, *, held: int | None = None
) -> int:
    """Return how many steps a block holds: a power of two, usually 32.

    More in a long recording of a tiny model, so that it has few files; `steps` is how many are
    planned. Fewer of a large model: reading one snapshot decodes its whole block. `memory` is for
    three blocks, two buffers and the one being compressed, of which `held` bytes of a step are in
    memory at once, by default all; ConfigError names the bytes needed.
    """
    held = step_bytes if held is None else held
    block, planned = USUAL_BLOCK, OPEN_ENDED_STEPS if steps is None else steps
    while block < MAX_BLOCK and planned > MANY_BLOCKS * block and 2 * block * step_bytes <= QUICK:
        block *= 2
    while block > MIN_BLOCK and block * step_bytes > SLOW:
        block //= 2
    while block >= 1 and 3 * block * held > memory:
        block //= 2
    if block < 1:
        raise ConfigError(
            f"memory {memory:,} bytes is too little: one step is {held:,} bytes and three "
            f"are held. Give at least {3 * held:,} (record.memory)."
        )
    return block


class BlockBuffer:
    """Room for the `block` steps of one block: a row each, in every array that is recorded."""

    def __init__(self, captured: Capture, block: int, *, gradients: bool) -> None:
        device = captured.device
        layout = captured.local
        self._device = device
        self.block = block
        self.scalars: list[str] = []
        self._cuda = device.type == "cuda"
        sizes = {"weights": (layout.parameters, torch.float32)}
        if gradients:
            sizes["gradients"] = (layout.parameters, torch.float32)
        for array, live in captured.buffers.items():
            dtype = torch.float32 if array == "buffers" else live[0].dtype
            sizes[array] = (layout.buffer_sizes[array], dtype)
        sizes |= dict.fromkeys(BY_TENSOR, (len(layout.tensors), torch.float32))
        sizes |= dict.fromkeys(SCALARS, (1, torch.float32))
        sizes["lr"] = (1, torch.float64)
        self.device_rows = {
            name: torch.zeros((block, size), dtype=dtype, device=device)
            for name, (size, dtype) in sizes.items()
        }
        self._host = (
            {name: torch.zeros_like(r, device="cpu").pin_memory() for name, r in self._items()}
            if self._cuda
            else self.device_rows
        )
        # Rows by step, made once: an index into a tensor costs more than what is put there.
        self.rows = {name: rows.unbind() for name, rows in self.device_rows.items()}
        self._ready: torch.cuda.Event | None = None
        # What the host knows is kept there: a launch costs more than a number.
        self._known: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = {}
        for name in SCALARS:
            self._known[name] = np.empty(block), np.zeros(block, bool)
        self.start = 0
        self.count = 0
        self.sent = 0
        self.series: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(block, dtype) for name, dtype in HOST_SERIES.items()
        }
        self.skips: dict[int, torch.Tensor] = {}
        shapes = [tensor.shape for tensor in captured.tensors]
        self.views = {"weights": self._views("weights", shapes)}
        if gradients:
            self.views["gradients"] = self._views("gradients", shapes)
        for array, live in captured.buffers.items():
            self.views[array] = self._views(array, [tensor.shape for tensor in live])

    def add_scalar(self, name: str) -> None:
        """Make room for a number that the training loop logs, NaN until it does."""
        rows = torch.full((self.block, 1), torch.nan, dtype=torch.float64, device=self._device)
        self.device_rows[name] = rows
        if self._cuda:
            self._host[name] = torch.full_like(rows, torch.nan, device="cpu").pin_memory()
        self.rows[name] = rows.unbind()
        self._known[name] = np.empty(self.block), np.zeros(self.block, bool)
        self.scalars.append(name)

    def put(
        self, slot: int, numbers: Mapping[str, float | torch.Tensor | None]
    ) -> dict[str, torch.Tensor]:
        """Set the numbers of a step that are known, NaN for None; return those in tensors."""
        for name in numbers.keys() - self._known.keys():
            self.add_scalar(name)
        on_device = {}
        for name, (values, known) in self._known.items():
            value = numbers.get(name)
            known[slot] = not isinstance(value, torch.Tensor)
            if isinstance(value, torch.Tensor):
                on_device[name] = value
            else:
                values[slot] = np.nan if value is None else float(value)
        return on_device

    def _items(self) -> Any:
        return self.device_rows.items()

    def _views(self, name: str, shapes: list[torch.Size]) -> list[list[torch.Tensor]]:
        """Make the destinations of every copy once: views cost more than small copies."""
        views = []
        for row in self.rows[name]:
            parts, offset = [], 0
            for shape in shapes:
                parts.append(row[offset : offset + shape.numel()].view(shape))
                offset += shape.numel()
            views.append(parts)
        return views

    def send(self, count: int, side: torch.cuda.Stream | None) -> None:
        """Start the copy of the first `count` steps to the host; nothing to do on the CPU."""
        if side is None:
            return
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for name, rows in self.device_rows.items():
                self._host[name][:count].copy_(rows[:count], non_blocking=True)
        # Recorded first: the writer, which may still have earlier rows, waits for what it finds.
        self._ready = mark(side)

    def reuse(self) -> None:
        """Let the training stream, not the host, wait until the last copy has left."""
        if self._ready is not None:
            torch.cuda.current_stream(self._device).wait_event(self._ready)
        self.count = self.sent = 0
        self.skips.clear()

    def host(self, name: str, count: int) -> npt.NDArray[Any]:
        """Return the first `count` steps of an array on the host, waiting for their copy."""
        if self._ready is not None:
            self._ready.synchronize()
        array: npt.NDArray[Any] = self._host[name][:count].numpy()
        if name in self._known:
            values, known = self._known[name]
            chosen = np.where(known[:count, None], values[:count, None], array)
            array = chosen.astype(array.dtype)
        return array
