"""Runs with prescribed weights, recorded by the real Recorder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS

RUN_IS_ENOUGH = sorted(
    name for name, m in METRICS.items() if not getattr(m, "inputs", ()) or m.inputs_for
)
"""Metrics that need no model."""

KINDS = {
    "conv.weight": "conv",
    "conv.bias": "bias",
    "norm.weight": "norm",
    "norm.bias": "norm",
    "big.weight": "linear",
    "big.bias": "bias",
    "out.weight": "linear",
    "out.bias": "bias",
}


@dataclass(frozen=True)
class Made:
    """A run and what was put into it, float64 where it matters nothing."""

    path: Path
    weights: np.ndarray
    gradients: np.ndarray
    steps: np.ndarray
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def tensor(self) -> np.ndarray:
        """Index of the tensor of each weight."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        return np.repeat(np.arange(len(sizes)), sizes)

    def groups(self, by: str, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Masks of the groups, in order."""
        found: dict[str, np.ndarray] = {}
        for t, name in enumerate(self.names):
            if kinds != ("all",) and KINDS[name] not in kinds:
                continue
            label = {"network": "network", "layer": name.rpartition(".")[0], "tensor": name}[by]
            found[label] = found.get(label, False) | (self.tensor == t)
        return found


def network() -> nn.Module:
    """A small network with a tensor (big.weight) that spans two chunks."""
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 5, 3),
            "norm": nn.BatchNorm2d(5),
            "big": nn.Linear(150, 120),
            "out": nn.Linear(120, 3),
        }
    )


def path_of_weights(parameters: int, steps: int, seed: int) -> np.ndarray:
    """Make a path with zeros, negative zeros, tiny and huge weights and many flips of sign."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((parameters, steps)) * 0.02
    path = (0.05 * rng.standard_normal((parameters, 1)) + noise.cumsum(axis=1)).astype(np.float32)
    path[rng.random(path.shape) < 0.03] = 0.0
    path[rng.random(path.shape) < 0.03] = -0.0
    tiny = rng.random(parameters) < 0.01
    path[tiny] *= np.float32(1e-30)
    path[rng.random(parameters) < 0.001] *= np.float32(1e10)
    return path


def record(
    path: Path,
    *,
    steps: int = 101,
    schedule: str = "0:71,71:101:7",
    memory: str = "1GiB",
    arrays: tuple[str, ...] = ("weights", "gradients"),
    seed: int = 0,
    nan: dict[tuple[str, int], int] | None = None,
) -> Made:
    """Record a network whose weights are set by hand.

    `nan` puts so many NaN at the start of a tensor at a step.
    """
    model = network()
    names = tuple(name for name, _ in model.named_parameters())
    shapes = tuple(tuple(p.shape) for p in model.parameters())
    total = sum(p.numel() for p in model.parameters())
    weights = path_of_weights(total, steps, seed)
    offsets = np.cumsum([0, *(int(np.prod(s)) for s in shapes)])
    for (name, step), count in (nan or {}).items():
        start = offsets[names.index(name)]
        weights[start : start + count, step] = np.nan
    rng = np.random.default_rng(seed + 1)
    common = rng.standard_normal((total, 1))
    gradients = (0.3 * common + rng.standard_normal((total, steps))).astype(np.float32)
    _put(model, weights[:, 0], None)
    recorder = ckptlab.Recorder(
        path, model, steps=schedule, memory=memory, arrays=arrays, total_steps=steps
    )
    with recorder:
        recorder.evaluate(loss=2.0, accuracy=0.1)
        for step in range(1, steps):
            _put(model, weights[:, step], gradients[:, step])
            recorder.step(loss=1.0 / step, accuracy=0.5)
            if step in (10, 50, steps - 1):
                recorder.evaluate(loss=1.0 / step, accuracy=step / steps)
    recorded = ckptlab.open_run(path).steps
    gradients[:, 0] = np.nan
    return Made(path, weights[:, recorded], gradients[:, recorded], recorded, names, shapes)


def _put(model: nn.Module, vector: np.ndarray, gradient: np.ndarray | None) -> None:
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            part = slice(start, start + parameter.numel())
            parameter.copy_(torch.from_numpy(vector[part].reshape(parameter.shape)))
            if gradient is not None:
                values = gradient[part].reshape(parameter.shape)
                parameter.grad = torch.from_numpy(values.copy())
            start = part.stop
