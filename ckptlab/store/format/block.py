"""What one commit holds: the recorded steps written together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(kw_only=True, slots=True)
class Anchor:
    """The optimizer's state at the end of a block.

    Parameters
    ----------
    step : int
        The step it belongs to, the last of its block.
    states : dict of str to ndarray
        Parameter-shaped states by key, float32, shape (param,); NaN where absent.
    row : bytes
        safetensors of everything else.
    """

    step: int
    states: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    row: bytes = b""


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """One evaluation on the test set.

    Parameters
    ----------
    step : int
        When.
    loss, accuracy : float
        NaN if not measured.
    """

    step: int
    loss: float
    accuracy: float


@dataclass(kw_only=True, slots=True)
class Block:
    """Some recorded steps, from the start of a block of the store on.

    Parameters
    ----------
    start : int
        Position of the first step among the recorded ones, a multiple of the block size.
    rows : dict of str to ndarray
        Large arrays by name, shape (steps, param) or (steps, buffer).
    series : dict of str to ndarray
        Arrays over steps by name, shape (steps,) or (tensor, steps); ``step`` among them. Of those
        that are left out, the fill value is stored.
    anchor : Anchor or None
        The optimizer at the last step; None if it is not known exactly.
    evaluations : list of Evaluation
        Made since the previous block was handed over.
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
        """Position behind its last step."""
        return self.start + self.count
