"""Hold what one commit writes: the recorded steps of a block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


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


@dataclass(kw_only=True, slots=True)
class Block:
    """Recorded steps from the start of a block of the store on, `start` among all recorded ones.

    `rows` holds large arrays by name, shape (steps, param) or (steps, buffer); `series` arrays over
    steps, shape (steps,) or (tensor, steps), ``step`` among them. Series that are left out are
    stored as their fill value. `anchor` is None where the optimizer's state at the last step is not
    known exactly. `evaluations` are those since the previous block.
    """

    start: int
    rows: dict[str, npt.NDArray[Any]]
    series: dict[str, npt.NDArray[Any]]
    anchor: Anchor | None = None
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of its steps."""
        return len(self.series["step"])

    @property
    def stop(self) -> int:
        """Position after its last step."""
        return self.start + self.count
