"""Read a run with zarr alone, and keep the register of oracles.

An oracle is a few lines of NumPy, SciPy, Pillow or plain PyTorch in float64, written from the
papers and the documentation. Oracles import nothing of the package that they check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FRANKLE = "arXiv:2002.10365"


@dataclass(frozen=True)
class Oracle:
    """One independent implementation, and how closely the package must agree with it."""

    kind: str
    name: str
    function: Callable[..., Any]
    tolerance: str
    source: str


ORACLES: dict[tuple[str, str], Oracle] = {}


def oracle(kind: str, name: str, tolerance: str, source: str) -> Callable[[Any], Any]:
    """Register a function as the oracle of a metric, task, perturbation, … of the package."""

    def register(function: Any) -> Any:
        ORACLES[kind, name] = Oracle(kind, name, function, tolerance, source)
        return function

    return register


class PlainRun:
    """A recording as zarr gives it: whole arrays, no class of the package."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group = zarr.open_group(str(path), mode="r")
        self.tensors = self.group.attrs["tensors"]
        self.config = self.group.attrs["config"]
        self.length = int(self["step"].size)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.group[name][:])

    @cached_property
    def steps(self) -> np.ndarray:
        return self["step"]

    @cached_property
    def weights(self) -> np.ndarray:
        """Shape (param, step), float64."""
        return self["weights"].astype(np.float64)

    @cached_property
    def tensor(self) -> np.ndarray:
        """The tensor number of each weight."""
        return np.repeat(
            np.arange(len(self.tensors)), [int(np.prod(t["shape"])) for t in self.tensors]
        )

    @cached_property
    def kept(self) -> np.ndarray:
        """Which weights the run itself keeps; pruned ones are no weights of the sub-network."""
        dense = np.ones(len(self.tensor), bool)
        return self["mask"].astype(bool) if "mask" in self.group else dense

    @cached_property
    def selected(self) -> np.ndarray:
        """What metrics pool by default: surviving weights of convolutions and linear layers."""
        return self.matrices & self.kept

    @cached_property
    def matrices(self) -> np.ndarray:
        """Whether each weight belongs to a convolution or linear layer: at least two dims."""
        flags = np.array([len(t["shape"]) >= 2 for t in self.tensors])
        return flags[self.tensor]

    def column(self, step: int) -> int:
        return int(np.flatnonzero(self.steps == step)[0])

    def state(self, step: int, vector: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Named tensors in float64, and buffers of batch norm."""
        column = self.column(step)
        flat = self.weights[:, column] if vector is None else vector
        found = split(flat, self.tensors)
        if "buffers" in self.group:
            rows = [
                b for b in self.group.attrs["buffers"] if b.get("array", "buffers") == "buffers"
            ]
            found |= split(self["buffers"][:, column].astype(np.float64), rows)
        return found


def split(flat: np.ndarray, table: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Cut a vector into named tensors."""
    parts = {}
    for row in table:
        size = int(np.prod(row["shape"]))
        parts[row["name"]] = flat[row["offset"] : row["offset"] + size].reshape(row["shape"])
    return parts


def digits() -> dict[str, np.ndarray]:
    """Scikit-learn's digits as docs/training.md says: bytes, 80/20 by class, mean 0, variance 1."""
    raw = load_digits()
    images = np.rint(raw.images * (255 / 16))
    parts = train_test_split(images, raw.target, test_size=0.2, random_state=0, stratify=raw.target)
    x, test_x, y, test_y = parts
    mean, std = x.mean(), x.std()
    return {
        "x": ((x - mean) / std)[:, None],
        "y": y,
        "test_x": ((test_x - mean) / std)[:, None],
        "test_y": test_y,
    }


def subset(count: int, samples: int, seed: int) -> np.ndarray:
    """The documented draw of examples: the first of a permutation by PCG64, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:samples])
