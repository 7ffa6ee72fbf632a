"""Steps measured on a model: one after the other here, or spread over worker processes.

torch uses all cores by itself,
so threads would only compete: with them everything runs here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.model.examples import Subset
from ckptlab.analyze.model.replay_model import Problem

HERE: tuple[Any, ...] = (None, "threads", "synchronous")
"""Schedulers that mean this process."""

Measure = Callable[..., list[Any]]
"""``f(problem, subset, items, before)``: a result for each item; `before` is the item before the
first, None if there is none. It is run where torch's switches are as they are here."""


def spread(
    measure: Measure,
    problem: Problem,
    subset: Subset,
    items: Sequence[Any] | npt.NDArray[Any],
    scheduler: Any,
) -> list[Any]:
    """Measure items in order, in contiguous parts that may run on several workers.

    Parameters
    ----------
    measure : callable
        A function of a module, or a partial of one, so that it can be pickled.
    problem : Problem
        What is measured on; workers get copies.
    subset : Subset
        Its examples, which workers get in memory.
    items : sequence
        Such as positions of recorded steps.
    scheduler : object
        As `open_executor` takes it.

    Returns
    -------
    list
        A result for each item.
    """
    if isinstance(scheduler, str | None) and scheduler in HERE:
        return measure(problem, subset, items, None)
    from dask.delayed import delayed

    with open_executor(scheduler) as executor:
        given = problem.portable(), subset.held(), Switches.read(problem.device)
        shared = executor.place(given)
        cuts = np.linspace(0, len(items), min(executor.workers, len(items)) + 1).astype(int)
        task = delayed(_measure_there, pure=False)
        parts = [
            task(measure, shared, list(items[a:b]), items[a - 1] if a else None)
            for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        ]
        return [result for part in executor.compute(parts) for result in part]


def _measure_there(
    measure: Measure, given: tuple[Problem, Subset, Switches], items: list[Any], before: Any
) -> list[Any]:
    """Run in a worker: on its GPU if it has one and the model was on one, else on its CPU."""
    problem, subset, switches = given
    with switches.set():
        return measure(problem.settled(switches.device), subset, items, before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Switches:
    """The process-wide switches of torch that decide what numbers come out.

    Parameters
    ----------
    device : str
        Type of the device of the model.
    threads : int
        Of the CPU.
    determinism : int
        0 admits any algorithm, 1 warns of those that are not deterministic, 2 refuses them: torch's
        ``get_deterministic_debug_mode``.
    tf32 : tuple of bool
        Whether matrix products and convolutions on a GPU are of lower precision.
    autocast : dtype or None
        Of convolutions and matrix products, where it is not that of the model.
    """

    device: str
    threads: int
    determinism: int
    tf32: tuple[bool, bool]
    autocast: torch.dtype | None

    @classmethod
    def read(cls, device: torch.device) -> Switches:
        """Return those of this process."""
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
        """Set them for a while, and put them back at the end.

        Yields
        ------
        None
            While they are set.
        """
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
