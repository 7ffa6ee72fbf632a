"""Copy a model, its gradients and the numbers of an update into one row of a buffer.

On a GPU that is some twenty launches. Where the tensors stay in place from step to step, as they do
under CUDA graphs, it is captured as a graph of its own: one launch. The graph copies into a row of
its own and that one to the place in the buffer that a number on the device tells, so that a buffer
needs one graph, not one for each of its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ckptlab.record.pipeline.buffers import BY_TENSOR, BlockBuffer
from ckptlab.record.pipeline.flatten import Flattener
from ckptlab.record.pipeline.gradients import Gradients
from ckptlab.record.state.model_tensors import Capture

Make = Callable[[Callable[[], bool]], Callable[[], bool]]
"""Takes some work and returns what repeats it, as `CudaGraphs` does."""

REPEATS = 2
"""How often the same tensors are met before their copy is captured."""

MOST = 32
"""Sets of tensors that are captured: of two buffers, some batch sizes, some tasks."""


class Rows:
    """Writes rows of buffers."""

    def __init__(self, captured: Capture, gradients: Gradients) -> None:
        self._captured = captured
        self._gradients = gradients
        self._flatteners = {"weights": Flattener(captured.tensors, captured.require_forms)}
        self._flatteners |= {array: Flattener(live) for array, live in captured.buffers.items()}

    def write(
        self,
        buffer: BlockBuffer,
        slot: int,
        numbers: Mapping[str, torch.Tensor],
        *,
        gradients: bool,
    ) -> bool:
        """Write the row `slot`; return whether there was a gradient, if `gradients` are asked for.

        `numbers` are those of the update that lie on the device.
        """
        for array in self._captured.buffers:
            self._flatteners[array].tensors = self._captured.live_buffers(array)
        for array, flattener in self._flatteners.items():
            flattener.copy(buffer.rows[array][slot], buffer.views[array][slot])
        for name, value in numbers.items():
            buffer.rows[name][slot].copy_(value.reshape(1), non_blocking=True)
        return self._gradients.record(buffer, slot) if gradients else True


class GraphedRows(Rows):
    """Writes rows from graphs that `make` makes, where tensors stay in place; else as `Rows` does.

    `staging` is a buffer of one step.
    """

    def __init__(
        self, captured: Capture, gradients: Gradients, staging: BlockBuffer, make: Make
    ) -> None:
        super().__init__(captured, gradients)
        self._staging = staging
        self._make = make
        self._place = torch.zeros(1, dtype=torch.int64, device=captured.device)
        self._next = -1  # what `_place` holds
        self._met: Counter[Any] = Counter()
        self._graphs: dict[Any, Callable[[], bool]] = {}

    def write(
        self,
        buffer: BlockBuffer,
        slot: int,
        numbers: Mapping[str, torch.Tensor],
        *,
        gradients: bool,
    ) -> bool:
        """Write the row `slot`, as `Rows.write` does."""
        # Gradients that were taken before the update are in the row already.
        replay = self._graph(buffer, numbers) if gradients else None
        if replay is None:
            return super().write(buffer, slot, numbers, gradients=gradients)
        if slot != self._next:
            self._place.fill_(slot)
        self._next = (slot + 1) % buffer.block
        return replay()

    def _graph(
        self, buffer: BlockBuffer, numbers: Mapping[str, torch.Tensor]
    ) -> Callable[[], bool] | None:
        key = self._addresses(buffer, numbers)
        if key in self._graphs or key is None:
            return self._graphs.get(key)
        # Tensors that never come back to their place would fill it for nothing.
        if len(self._graphs) == MOST or (key not in self._met and len(self._met) == 8 * MOST):
            return None
        self._met[key] += 1
        if self._met[key] <= REPEATS:
            return None
        for name in numbers:
            if name not in self._staging.rows:
                self._staging.add_scalar(name)

        def work() -> bool:
            found = Rows.write(self, self._staging, 0, numbers, gradients=True)
            written = [*self._staging.views, *BY_TENSOR, *numbers]
            for name in written:
                row = self._staging.device_rows[name]
                buffer.device_rows[name].index_copy_(0, self._place, row)
            self._place.add_(1).remainder_(buffer.block)
            return found

        # One index: nothing about its order is undetermined, and torch's other way sorts.
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode(0)
        try:
            self._graphs[key] = self._make(work)
        finally:
            torch.set_deterministic_debug_mode(before)
        return self._graphs[key]

    def _addresses(
        self, buffer: BlockBuffer, numbers: Mapping[str, torch.Tensor]
    ) -> tuple[Any, ...] | None:
        """Return where all that is copied lies; None if it cannot be told."""
        gradients = [tensor.grad for tensor in self._captured.tensors]
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            return None
        live = [t for array in self._captured.buffers for t in self._captured.live_buffers(array)]
        tensors = [*self._captured.tensors, *gradients, *live, *numbers.values()]
        places = (0 if tensor is None else tensor.data_ptr() for tensor in tensors)
        return id(buffer), tuple(numbers), *places
