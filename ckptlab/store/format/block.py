"""Hold what one commit writes: the recorded steps of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.store.format.digest import segment_digest


@dataclass(kw_only=True, slots=True)
class Anchor:
    """The optimizer's state at the end of a block, whose last step is `step`.

    `states` are parameter-shaped, by key: float32 of shape (param,), NaN where absent. `row` is the
    safetensors bytes of everything else.
    """

    step: int
    states: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    row: bytes = b""


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """One evaluation on the test set; NaN for what was not measured."""

    step: int
    loss: float
    accuracy: float


class LazyRows:
    """The rows of a large array, shape (steps, param), read a stretch of the parameters at a time.

    `read(start, stop)` returns shape (steps, stop - start); each stretch is read once, in order.
    """

    def __init__(
        self, shape: tuple[int, int], itemsize: int, read: Callable[[int, int], npt.NDArray[Any]]
    ) -> None:
        self.shape = shape
        self.nbytes = shape[0] * shape[1] * itemsize
        self._read = read
        self._digests: list[list[int]] = []

    def stretch(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the next stretch."""
        found = self._read(start, min(stop, self.shape[1]))
        self._digests.append([segment_digest(row) for row in found])
        return found

    def digests(self) -> npt.NDArray[np.uint64]:
        """Return the digest of each stretch of each row, shape (stretch, steps), once read."""
        return np.array(self._digests, np.uint64)


@dataclass(kw_only=True, slots=True)
class Observations:
    """What was summed over the weights at observed `steps`: `arrays` by name, steps last."""

    steps: list[int] = field(default_factory=list)
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Block:
    """Recorded steps from the start of a block of the store on, `start` among all recorded ones.

    `rows` holds large arrays by name, shape (steps, param) or (steps, buffer), `lazy` those
    that are read while they are written; `series` arrays over
    steps, shape (steps,) or (tensor, steps), ``step`` among them. Series that are left out are
    stored as their fill value. `anchor` is None where the optimizer's state at the last step is not
    known exactly. `evaluations` and `observations` are those since the previous block.
    `digests`, shape (segment, steps), and `sizes` of files, by key, are those of weights that other
    processes wrote.
    """

    start: int
    rows: dict[str, npt.NDArray[Any]]
    series: dict[str, npt.NDArray[Any]]
    lazy: dict[str, LazyRows] = field(default_factory=dict)
    anchor: Anchor | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    observations: Observations = field(default_factory=Observations)
    digests: npt.NDArray[np.uint64] | None = None
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of its steps."""
        return len(self.series["step"])

    @property
    def stop(self) -> int:
        """Position after its last step."""
        return self.start + self.count
