"""Sum over the live weights at observed steps, whose snapshots need not be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.record.pipeline.buffers import BY_TENSOR
from ckptlab.record.pipeline.flatten import Flattener
from ckptlab.record.pipeline.gradients import Gradients
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.update_watch import Number
from ckptlab.store.format.block import Observations
from ckptlab.store.format.schema import OBSERVED_SERIES, SUMS

CAPACITY = 256
"""Observed steps that are committed together at most."""

SCALARS = ("loss", "batch_accuracy", "lr")

PART = 2**24
"""Weights whose sums a GPU makes at once, in float64, unless one tensor has more."""


@dataclass
class Observed:
    """A copy of what was observed, still on its device; `copied` is when it is made, on a GPU."""

    steps: list[int] = field(default_factory=list)
    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    copied: torch.cuda.Event | None = None

    def to_observations(self) -> Observations:
        """Bring it to the host, steps last."""
        if self.copied is not None:
            self.copied.synchronize()
        arrays = {
            name: np.ascontiguousarray(np.moveaxis(rows.cpu().numpy(), 0, -1))
            for name, rows in self.rows.items()
        }
        return Observations(steps=self.steps, arrays=arrays)


class Observer:
    """Sums over a model's weights, against its initial state and the one observed before.

    `initial` is the initial parameter vector, shape (param,); that of now by default. Unless the
    state of now is one that was observed (`knows_previous`), the next one has no previous.
    """

    def __init__(
        self,
        captured: Capture,
        optimizers: Mapping[str, torch.optim.Optimizer],
        initial: npt.NDArray[np.float32] | None,
        *,
        knows_previous: bool,
    ) -> None:
        self._captured = captured
        self._several = len(optimizers) > 1
        device, layout = captured.device, captured.local
        self._cuda = device.type == "cuda"
        tensors = len(layout.tensors)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            name: ((len(rows), tensors), getattr(torch, dtype))
            for name, (dtype, rows) in SUMS.items()
        }
        shapes |= {OBSERVED_SERIES + name: ((tensors,), torch.float32) for name in BY_TENSOR}
        shapes |= {OBSERVED_SERIES + name: ((), torch.float32) for name in SCALARS}
        shapes[f"{OBSERVED_SERIES}lr"] = (), torch.float64
        self._rows = {
            name: torch.zeros((CAPACITY, *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in shapes.items()
        }
        self._gradients = Gradients(captured, optimizers)
        # Rows as a buffer has them; the gradients themselves are not kept.
        norms = {name: self._rows[OBSERVED_SERIES + name] for name in BY_TENSOR}
        self._norms: Any = SimpleNamespace(rows=norms, views={})
        self._flattener = Flattener(captured.tensors, captured.require_forms)
        self._offsets = layout.offsets
        self._now, self._before = (torch.zeros(layout.parameters, device=device) for _ in range(2))
        self._sizes = torch.tensor([tensor.size for tensor in layout.tensors], device=device)
        self._flatten()
        self._first = self._now.clone() if initial is None else torch.from_numpy(initial).to(device)
        if not knows_previous:
            self._now.fill_(torch.nan)
        self._taken = False
        self.steps: list[int] = []

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return len(self.steps) == CAPACITY

    @torch.no_grad()
    def take_gradients(self, optimizer: str) -> None:
        """Measure the gradients of an optimizer's update, before it writes into them."""
        self._captured.refresh()
        if self._several and not self._taken:
            self._leave_gradients_out()
        self._measure_gradients(optimizer)
        self._captured.release()
        self._taken = True

    @torch.no_grad()
    def observe(self, step: int, numbers: Mapping[str, Number | None], *, gradients: bool) -> None:
        """Sum over the weights as they are now; `gradients` tells whether there may be any."""
        self._captured.require_unchanged()
        slot = len(self.steps)
        self._now, self._before = self._before, self._now
        self._flatten()
        sums, counts, extremes = (self._rows[name][slot] for name in SUMS)
        if self._cuda:
            self._sum_on_device(sums, counts, extremes)
        else:
            from ckptlab.record.pipeline.observe_kernel import observe

            now, before, first = (v.numpy() for v in (self._now, self._before, self._first))
            found = (sums.numpy(), counts.numpy(), extremes.numpy())
            observe(now, before, first, self._offsets, *found)
        if not gradients:
            self._leave_gradients_out()
        elif not self._taken:
            self._measure_gradients()
        self._captured.release()
        self._taken = False
        for name in SCALARS:
            row, value = self._rows[OBSERVED_SERIES + name][slot], numbers.get(name)
            if isinstance(value, torch.Tensor):
                row.copy_(value.reshape(()), non_blocking=True)
            else:
                row.fill_(torch.nan if value is None else float(value))
        self.steps.append(step)

    def take(self) -> Observed:
        """Copy what was observed since the last call, and make room."""
        if not self.steps:
            return Observed()
        count, steps = len(self.steps), self.steps
        self.steps = []
        found = Observed(steps, {name: rows[:count].clone() for name, rows in self._rows.items()})
        if self._cuda:
            found.copied = torch.cuda.Event()
            found.copied.record(torch.cuda.current_stream(self._captured.device))
        return found

    def _flatten(self) -> None:
        layout = self._captured.local
        views = [self._now[tensor.stretch].view(tensor.shape) for tensor in layout.tensors]
        self._flattener.copy(self._now, views)

    def _leave_gradients_out(self) -> None:
        self._gradients.leave_out(self._norms, len(self.steps))

    def _measure_gradients(self, optimizer: str | None = None) -> None:
        self._gradients.record(self._norms, len(self.steps), optimizer)

    def _sum_on_device(
        self, sums: torch.Tensor, counts: torch.Tensor, extremes: torch.Tensor
    ) -> None:
        """Do what the compiled kernel does, a few tensors at a time."""
        first = 0
        while first < len(self._sizes):
            last = int(np.searchsorted(self._offsets, self._offsets[first] + PART, side="right"))
            last = max(min(last - 1, len(self._sizes)), first + 1)
            part = slice(int(self._offsets[first]), int(self._offsets[last]))
            sizes, at = self._sizes[first:last], slice(first, last)
            vectors = (self._now[part], self._before[part], self._first[part])
            _sum_part(*vectors, sizes, sums[:, at], counts[:, at], extremes[:, at])
            first = last


def _sum_part(
    now: torch.Tensor,
    before: torch.Tensor,
    first: torch.Tensor,
    sizes: torch.Tensor,
    sums: torch.Tensor,
    counts: torch.Tensor,
    extremes: torch.Tensor,
) -> None:
    def reduce(values: torch.Tensor, how: str = "sum") -> Any:
        return torch.segment_reduce(values, how, lengths=sizes, unsafe=True)

    x, y, z = now.double(), before.double(), first.double()
    for row, values in enumerate((x.abs(), x * x, (x - y) ** 2, (x - z) ** 2, x, x * y, x * z)):
        sums[row] = reduce(values)
    del x, y, z
    lost = now.isnan()
    for row, found in enumerate(
        ((now != 0) & ~lost, now.sign() * before.sign() < 0, now.sign() * first.sign() < 0, lost)
    ):
        counts[row] = reduce(found.double())
    extremes[0] = reduce(now.masked_fill(lost, torch.inf), "min")
    extremes[1] = reduce(now.masked_fill(lost, -torch.inf), "max")
