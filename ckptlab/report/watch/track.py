"""Keep numbers over steps, thinned to what a screen can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_POINTS = 1000
"""A series has no more points than this: of a longer one every second, fourth, eighth … is kept."""


class Track:
    """Series over one axis of steps; memory does not grow with their length."""

    def __init__(self) -> None:
        self.read = 0
        self.stride = 1
        self.steps: list[int] = []
        self.values: dict[str, list[float | None]] = {}

    def add(self, steps: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Add entries, shape (entry,); return whether points that were there have changed."""
        chosen = np.arange(self.read, self.read + len(steps)) % self.stride == 0
        changed = False
        for name in columns.keys() - self.values.keys():
            self.values[name] = [None] * len(self.steps)
            changed |= bool(self.steps)
        self.steps += [int(step) for step in steps[chosen]]
        for name, held in self.values.items():
            held.extend(map(_short, columns[name][chosen].tolist()))
        self.read += len(steps)
        while len(self.steps) > MOST_POINTS:
            self.stride *= 2
            self.steps = self.steps[::2]
            self.values = {name: held[::2] for name, held in self.values.items()}
            changed = True
        return changed

    def since(self, count: int) -> dict[str, Any]:
        """Return the points after the first `count`, as JSON."""
        return {
            "from": count,
            "steps": self.steps[count:],
            "values": {name: held[count:] for name, held in self.values.items()},
        }


def _short(value: float) -> float | None:
    """Round to five significant digits; None for what JSON cannot hold."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
