"""Run a measurement at many steps, in this process or spread over dask workers.

torch uses all cores by itself, so threads would only compete: with them everything runs here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import torch

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.problems.examples import Subset

HERE: tuple[Any, ...] = (None, "threads", "synchronous")
"""Schedulers that mean this process."""

Measure = Callable[..., list[Any]]
"""``f(model, subset, items, before)`` returns one result for each item.

`before` is the item before the first, or None. It must pickle: a function of a module, or a
partial of one."""


def spread(
    measure: Measure,
    model: ReplayModel,
    subset: Subset,
    items: Sequence[Any] | npt.NDArray[Any],
    scheduler: Any,
) -> list[Any]:
    """Measure items in order, in contiguous parts that may run on several workers.

    Workers get copies of the model, the subset in memory, and torch's switches of this process.
    """
    if isinstance(scheduler, str | None) and scheduler in HERE:
        return measure(model, subset, items, None)
    from dask.delayed import delayed

    with open_executor(scheduler) as executor:
        given = measure, model.to("cpu"), subset.in_memory(), Switches.read(model.device)
        # By value where they are of a plug-in file, which workers may not have loaded.
        shared = executor.place(cloudpickle.dumps(given))
        cuts = np.linspace(0, len(items), min(executor.workers, len(items)) + 1).astype(int)
        task = delayed(_measure_there, pure=False)
        parts = [
            task(shared, list(items[a:b]), items[a - 1] if a else None)
            for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        ]
        return [result for part in executor.compute(parts) for result in part]


def _measure_there(given: bytes, items: list[Any], before: Any) -> list[Any]:
    """Measure in a worker: on its GPU if it has one and the model was on one, else on its CPU."""
    measure, model, subset, switches = cloudpickle.loads(given)
    with switches.set():
        found: list[Any] = measure(model.to(switches.device), subset, items, before)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Switches:
    """The process-wide switches of torch that decide which numbers come out.

    `determinism` is torch's ``get_deterministic_debug_mode``; `tf32` are those of matrix products
    and of convolutions; `autocast` is None where autocast is off.
    """

    device: str
    threads: int
    determinism: int
    tf32: tuple[bool, bool]
    autocast: torch.dtype | None

    @classmethod
    def read(cls, device: torch.device) -> Switches:
        """Return the switches of this process."""
        lower = torch.is_autocast_enabled(device.type)
        return cls(
            device=device.type,
            threads=torch.get_num_threads(),
            determinism=torch.get_deterministic_debug_mode(),
            tf32=(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
            autocast=torch.get_autocast_dtype(device.type) if lower else None,
        )

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        """Set the switches, and restore the former ones at the end."""
        before = Switches.read(torch.device(self.device))
        self._write()
        try:
            with torch.autocast(self.device, self.autocast, enabled=self.autocast is not None):
                yield
        finally:
            before._write()

    def _write(self) -> None:
        torch.set_num_threads(self.threads)
        # `use_deterministic_algorithms` sets the same, and loads the compiler besides.
        torch.set_deterministic_debug_mode(self.determinism)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self.tf32
