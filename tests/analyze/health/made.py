"""Series in memory: walks that are healthy by construction, and trained ones to be damaged."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ckptlab.analyze.health.check import check_series
from ckptlab.store.format.layout import Tensor

SHAPES = {
    "embed.weight": (50, 16),
    "fc1.weight": (64, 16),
    "fc1.bias": (64,),
    "norm.weight": (64,),
    "fc2.weight": (48, 64),
    "head.weight": (10, 48),
    "head.bias": (10,),
}


@dataclass
class Made:
    """A series whose snapshots are rows of an array."""

    steps: np.ndarray
    values: np.ndarray
    tensors: list[Tensor]
    width: int = 4
    path: str = "made"
    pruned: bool = False
    findings: list = field(default_factory=list)

    def __post_init__(self):
        self.excused = np.zeros(len(self.steps) - 1, bool)

    def read(self, rows, columns):
        return self.values[columns, rows]

    def stretch(self, *names):
        """Positions of tensors in the vector."""
        return np.concatenate([np.r_[t.stretch] for t in self.tensors if t.name in names])

    def damaged(self, **changes):
        """A copy to damage."""
        return Made(self.steps, self.values.copy(), self.tensors, **changes)


def layout(shapes=SHAPES):
    tensors, at = [], 0
    for name, shape in shapes.items():
        kind = "linear" if len(shape) > 1 else "norm" if "norm" in name else "bias"
        tensors.append(Tensor(name=name, shape=shape, offset=at, kind=kind))
        at += int(np.prod(shape))
    return tensors


def walk(steps, *, seed=0, momentum=0.9, drift=0.3, rate=lambda step, last: 1e-3, cut=0):
    """Walk as weights do under momentum: noise and a drift towards a goal, at a rate by step.

    `cut` zeroes so many low bits, as 16-bit types do.
    """
    tensors = layout()
    size = tensors[-1].stretch.stop
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(size) * 0.1
    weights[np.r_[tensors[3].stretch]] = 1
    goal, velocity, rows = rng.standard_normal(size), np.zeros(size), []
    for step in range(int(steps[-1]) + 1):
        if step in steps:
            rows.append(weights.copy())
        velocity = momentum * velocity + rng.standard_normal(size) + drift * (goal - weights)
        weights = weights + rate(step, steps[-1]) * velocity
    values = np.array(rows, np.float32)
    if cut:
        values = (values.view(np.uint32) >> cut << cut).view(np.float32)
    return Made(np.asarray(steps, np.int64), values, tensors)


def check(series, memory=2**24):
    return check_series(series, memory)
